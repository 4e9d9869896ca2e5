#include "distributed/meeting.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "base/check.h"
#include "distributed/shared_error.h"
#include "io/atomic_file.h"
#include "io/json_document.h"

namespace perceiver {
namespace {

using Clock = std::chrono::steady_clock;
constexpr Milliseconds kConnectLimit{2000};  // for one address
constexpr Milliseconds kAnswerLimit{5000};   // for rank 0 to say that it has heard
constexpr Milliseconds kSlack{30000};        // rank 0 started later, and gives up later
constexpr uint64_t kLargestFile = 64 << 10;

Milliseconds since(Clock::time_point begin) {
  return std::chrono::duration_cast<Milliseconds>(Clock::now() - begin);
}

/// The next message, or none within the limit or at the end of the connection.
std::optional<Message> next_message(Connection& connection, Milliseconds limit) {
  for (const Clock::time_point begin = Clock::now();;) {
    connection.flush();
    connection.read();
    if (std::optional<Message> message = connection.next()) return message;
    const Milliseconds left = limit - since(begin);
    if (connection.ended() || left.count() <= 0) return std::nullopt;
    wait_readable(connection.socket(), std::min(left, Milliseconds(100)));
  }
}

class Joiner {
 public:
  Joiner(Member self, Milliseconds limit) : self_(std::move(self)), limit_(limit) {}

  std::optional<Meeting> try_at(const MeetingPoint& point) {
    self_.token = point.token;
    for (const std::string& address : addresses_for(point)) {
      Attempt attempt = connect_to(address, point.port, kConnectLimit);
      if (!attempt.socket.valid()) {
        note(attempt.problem);
        continue;
      }
      if (auto meeting = greet(std::make_unique<Connection>(std::move(attempt.socket)), address))
        return meeting;
    }
    return std::nullopt;
  }

  Milliseconds waited() const { return since(begin_); }
  bool late() const { return waited() > limit_; }
  const std::string& problem() const { return problem_; }

 private:
  std::vector<std::string> addresses_for(const MeetingPoint& point) const {
    std::vector<std::string> addresses = point.addresses;
    if (!point.boot.empty() && point.boot == self_.boot) addresses.insert(addresses.begin(), "127.0.0.1");
    return addresses;
  }

  std::optional<Meeting> greet(std::unique_ptr<Connection> connection, const std::string& address) {
    connection->set_limit(Connection::kLargest);
    connection->send(MessageType::hello, to_text(self_));
    std::optional<Message> answer = next_message(*connection, kAnswerLimit);
    if (answer && answer->type == MessageType::status)
      answer = next_message(*connection, std::max(Milliseconds(0), limit_ - waited()) + kSlack);
    if (answer && answer->type == MessageType::end) throw parse_shared_error(answer->content);
    if (!answer || answer->type != MessageType::welcome) {
      note(address + ": what answers there is not rank 0 of this run");
      return std::nullopt;
    }
    Meeting meeting{parse_members(answer->content), {}};
    meeting.peers.push_back(std::move(connection));
    return meeting;
  }

  /// Of the last round: an address of this host that was tried in vain says little about others.
  void note(const std::string& problem) {
    if (problem_.find(problem) == std::string::npos) problem_ += (problem_.empty() ? "" : ", ") + problem;
  }

  Member self_;
  Milliseconds limit_;
  Clock::time_point begin_ = Clock::now();
  std::string problem_;
};

std::string unreachable(const Member& self, const Joiner& joiner, const std::string& place_text) {
  const bool loopback = joiner.problem().find("127.") != std::string::npos;
  return fmt::format(
      "rank 0 was not found within {} s {}, from host {}{}: see that it runs{} and that this host can reach "
      "it; a longer "
      "limit: --start-timeout",
      joiner.waited().count() / 1000, place_text, self.host,
      joiner.problem().empty() ? "" : " (" + joiner.problem() + ")",
      loopback ? ", that the name does not mean this host itself (127.…) if rank 0 is elsewhere," : "");
}

}  // namespace

std::string to_text(const MeetingPoint& point) {
  return nlohmann::json{
      {"addresses", point.addresses}, {"port", point.port}, {"token", point.token}, {"boot", point.boot}}
      .dump();
}

std::optional<MeetingPoint> parse_meeting_point(const std::string& text) {
  try {
    const nlohmann::json json = parse_json_document(text, "the meeting point");
    MeetingPoint point;
    json.at("addresses").get_to(point.addresses);
    json.at("port").get_to(point.port);
    json.at("token").get_to(point.token);
    json.at("boot").get_to(point.boot);
    return point;
  } catch (const Error&) {
    return std::nullopt;
  } catch (const nlohmann::json::exception&) {
    return std::nullopt;
  }
}

std::string random_token() {
  std::random_device source;
  std::string token;
  for (int i = 0; i < 4; ++i) token += fmt::format("{:08x}", source());
  return token;
}

Meeting join_meeting(Member self, const std::function<std::optional<MeetingPoint>()>& find,
                     Milliseconds limit, const std::string& place_text) {
  Joiner joiner(self, limit);
  for (Milliseconds pause(20); !joiner.late(); pause = std::min(pause * 2, Milliseconds(500))) {
    if (const std::optional<MeetingPoint> point = find())
      if (std::optional<Meeting> meeting = joiner.try_at(*point)) return std::move(*meeting);
    std::this_thread::sleep_for(pause);
  }
  throw_failure("{}", unreachable(self, joiner, place_text));
}

void write_meeting_file(const std::filesystem::path& file, const MeetingPoint& point) {
  const std::string temporary = file.string() + ".tmp-" + std::to_string(getpid());
  FileDescriptor opened(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (!opened.valid())
    throw_failure("cannot write '{}', where the ranks meet: {}; name another place with --rendezvous",
                  file.string(), std::strerror(errno));
  OutputFile output(std::move(opened), temporary);
  output.write(to_text(point));
  output.finish();
  std::filesystem::rename(temporary, file);
}

std::optional<MeetingPoint> read_meeting_file(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return std::nullopt;
  try {
    return parse_meeting_point(read_file(file, kLargestFile));
  } catch (const Error&) {
    return std::nullopt;
  }
}

}  // namespace perceiver
