// A server's loop: prompts arrive at any time, a line each, and are continued together; answers leave as they
// are done. It reads standard input and writes standard output.
//   batch_server CHECKPOINT [SLOTS] < PROMPTS
#include <perceiver/perceiver.h>

#include <condition_variable>
#include <iostream>
#include <map>
#include <mutex>
#include <optional>
#include <queue>
#include <thread>

namespace {

/// Lines that a thread has read and the loop has not yet taken.
class Inbox {
 public:
  void put(std::string line) {
    const std::lock_guard lock(mutex_);
    lines_.push(std::move(line));
    arrived_.notify_one();
  }
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    arrived_.notify_one();
  }
  /// The next line; if `wait`, as soon as there is one. Nothing if there is none (any more).
  std::optional<std::string> take(bool wait) {
    std::unique_lock lock(mutex_);
    if (wait) arrived_.wait(lock, [&] { return closed_ || !lines_.empty(); });
    if (lines_.empty()) return std::nullopt;
    std::string line = std::move(lines_.front());
    lines_.pop();
    return line;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::queue<std::string> lines_;
  bool closed_ = false;
};

void serve(const perceiver::Model& model, int64_t slots, Inbox& inbox) {
  perceiver::BatchGenerator batch(model, {.slots = slots});
  std::map<int64_t, std::string> prompts;  // of unfinished sequences
  while (true) {
    while (const auto prompt = inbox.take(prompts.empty())) {
      perceiver::GenerateOptions options;
      options.tokens = 60;
      options.top_p = 0.95;
      options.stop = {"\n"};
      prompts[batch.add(*prompt, options)] = *prompt;
    }
    if (prompts.empty()) return;  // and none will come
    batch.step();
    for (auto it = prompts.begin(); it != prompts.end();) {
      if (!batch.finished(it->first)) {
        ++it;
        continue;
      }
      std::cout << it->second << " |" << batch.take(it->first).text << std::endl;
      it = prompts.erase(it);
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2 || argc > 3) {
    std::cerr << "usage: batch_server CHECKPOINT [SLOTS] < PROMPTS\n";
    return 2;
  }
  const auto model = perceiver::Model::load(argv[1]);
  static Inbox inbox;  // outlives the reader, which may still wait for a line when an error ends the program
  std::thread([] {
    for (std::string line; std::getline(std::cin, line);) inbox.put(line);
    inbox.close();
  }).detach();
  serve(model, argc == 3 ? std::stoi(argv[2]) : 8, inbox);
} catch (const perceiver::Error& error) {
  std::cerr << error.what() << "\n";
  return error.kind() == perceiver::ErrorKind::user ? 2 : 1;
}
