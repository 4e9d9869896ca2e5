// perceiver sample --interactive: prompts are typed, answers appear as they grow. Every prompt is on its own.
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>

#include <spdlog/spdlog.h>

#include "base/check.h"
#include "tools/log.h"
#include "tools/output.h"
#include "tools/sample.h"

namespace perceiver::program {
namespace {

constexpr const char* kBanner =
    "Type the start of a text. Ctrl-C ends an answer; /continue goes on with it; Ctrl-D or /quit ends.\n";

volatile sig_atomic_t interrupted = 0;

void note_interrupt(int) {
  interrupted = 1;
}

/// What a system call does that Ctrl-C interrupts: a write of an answer goes on, a read that waits fails with
/// EINTR.
enum class Interrupted { goes_on, fails };

/// While it lives, Ctrl-C sets `interrupted`.
class InterruptGuard {
 public:
  explicit InterruptGuard(Interrupted calls) {
    struct sigaction action {};
    action.sa_handler = note_interrupt;
    action.sa_flags = calls == Interrupted::goes_on ? SA_RESTART : 0;
    ::sigaction(SIGINT, &action, &before_);
  }
  ~InterruptGuard() { ::sigaction(SIGINT, &before_, nullptr); }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

 private:
  struct sigaction before_ {};
};

/// Lines of stdin. Not a stream: those go on reading after a signal.
class LineReader {
 public:
  /// `terminal`: Ctrl-C is caught.
  explicit LineReader(bool terminal) : terminal_(terminal) {}

  /// The next line without its end; none at the end of the input. A line that Ctrl-C interrupts is empty.
  std::optional<std::string> next() {
    std::optional<InterruptGuard> guard;
    if (terminal_) guard.emplace(Interrupted::fails);
    while (true) {
      if (const size_t end = pending_.find('\n'); end != std::string::npos) return take(end, end + 1);
      if (ended_)
        return pending_.empty() ? std::nullopt : std::optional(take(pending_.size(), pending_.size()));
      if (!wait_for_input()) return std::string();
      std::array<char, 4096> buffer{};
      const ssize_t size = ::read(STDIN_FILENO, buffer.data(), buffer.size());
      if (size > 0) pending_.append(buffer.data(), static_cast<size_t>(size));
      if (size == 0) ended_ = true;
      if (size < 0 && errno != EINTR) throw_failure("cannot read stdin: {}", std::strerror(errno));
      if (size < 0) return std::string();
    }
  }

 private:
  /// False if Ctrl-C came, now or since `interrupted` was reset: between a check and a plain read it would be
  /// lost, so the signal is let in only while ppoll waits.
  static bool wait_for_input() {
    sigset_t interrupt, before;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_BLOCK, &interrupt, &before);
    pollfd input{STDIN_FILENO, POLLIN, 0};
    while (interrupted == 0 && ::ppoll(&input, 1, nullptr, &before) < 0 && errno == EINTR) {
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return interrupted == 0;
  }

  std::string take(size_t length, size_t through) {
    std::string line = pending_.substr(0, length);
    pending_.erase(0, through);
    if (line.ends_with('\r')) line.pop_back();
    return line;
  }

  bool terminal_;
  std::string pending_;
  bool ended_ = false;
};

/// The conversation: prompts in, answers out.
class Session {
 public:
  Session(const SampleCommand& options, Engine& engine, const TextTokenizer& tokenizer)
      : options_(options), engine_(engine), tokenizer_(tokenizer) {}

  void answer(const std::string& prompt) {
    std::vector<int32_t> ids = tokenizer_.encode(prompt);
    ids.insert(ids.begin(), sos_token);
    go_on(std::move(ids));
  }

  /// Goes on with the last answer.
  void continue_answer() {
    if (text_.empty()) return print_message("There is no answer to continue yet.");
    go_on(text_);
  }

 private:
  static void print_message(const char* text) { spdlog::info("{}", text); }

  void go_on(std::vector<int32_t> ids) {
    GenerationRequest request = options_.request;
    request.prompt = ids;
    request.sequence = answers_++;
    size_t printed = 0;
    const auto show = [&](int64_t, const ChosenToken&, const std::string& text) {
      print_now(text);
      printed += text.size();
      return interrupted == 0;
    };
    const Completion completion = generate(engine_, {request}, show, &tokenizer_).front();
    print_now(completion.text.substr(printed) + "\n");
    ids.insert(ids.end(), completion.tokens.begin(), completion.tokens.end());
    if (ids.back() == eos_token) ids.pop_back();
    text_ = std::move(ids);
  }

  const SampleCommand& options_;
  Engine& engine_;
  const TextTokenizer& tokenizer_;
  std::vector<int32_t> text_;  ///< ids of the last prompt and its answer
  uint32_t answers_ = 0;       ///< the same prompt gets another answer
};

}  // namespace

int sample_interactively(const SampleCommand& options, Engine& engine, const TextTokenizer& tokenizer) {
  const bool terminal = ::isatty(STDIN_FILENO) != 0;
  const auto ask = [&](const char* text) {
    if (terminal) std::fputs(text, stderr);
  };
  std::optional<InterruptGuard> guard;
  if (terminal) guard.emplace(Interrupted::goes_on);  // elsewhere Ctrl-C ends the program, as usual
  Session session(options, engine, tokenizer);
  LineReader lines(terminal);
  ask(kBanner);
  while (true) {
    interrupted = 0;
    ask("> ");
    const std::optional<std::string> line = lines.next();
    if (interrupted != 0) ask("\n");
    if (!line || *line == "/quit") break;
    if (line->empty()) continue;
    try {
      *line == "/continue" ? session.continue_answer() : session.answer(*line);
    } catch (const Error& error) {  // e.g. a prompt that the tokenizer refuses
      if (error.kind() != ErrorKind::user) throw;
      spdlog::error("{}", error.what());
    }
  }
  ask("\n");
  return 0;
}

}  // namespace perceiver::program
