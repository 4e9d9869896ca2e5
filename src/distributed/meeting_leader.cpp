// Rank 0's side of the meeting.
#include <poll.h>

#include <algorithm>
#include <chrono>
#include <list>

#include "base/check.h"
#include "distributed/meeting.h"
#include "distributed/shared_error.h"

namespace perceiver {
namespace {

using Clock = std::chrono::steady_clock;
constexpr Milliseconds kHelloLimit{10000};  // for a process that has connected to say who it is
constexpr size_t kMostStrangers = 1024;     // that may be connected without having done so
constexpr Milliseconds kRefusalTime{1000};  // for the others to hear why there is no meeting

class Leader {
 public:
  Leader(const Member& self, const Listener& listener) : listener_(listener) {
    meeting_.members.resize(static_cast<size_t>(self.size));
    meeting_.peers.resize(static_cast<size_t>(self.size));
    meeting_.members[0] = self;
  }

  Meeting wait(Milliseconds limit, const std::string& place_text) {
    const Clock::time_point end = Clock::now() + limit;
    while (!missing().empty()) {
      const auto left = std::chrono::duration_cast<Milliseconds>(end - Clock::now());
      if (left.count() <= 0) give_up(late(limit, place_text), ErrorKind::failure);
      look(std::min<Milliseconds>(left, Milliseconds(200)));
    }
    place_on_hosts(meeting_.members);
    const auto members = std::make_shared<const std::string>(to_text(meeting_.members));
    for (const auto& peer : meeting_.peers) {
      if (!peer) continue;
      peer->set_limit(Connection::kLargest);
      peer->send(MessageType::welcome, members);
    }
    return std::move(meeting_);
  }

 private:
  struct Stranger {
    std::unique_ptr<Connection> connection;
    Clock::time_point since;
  };

  std::vector<int> missing() const {
    std::vector<int> ranks;
    for (size_t rank = 1; rank < meeting_.peers.size(); ++rank)
      if (!meeting_.peers[rank]) ranks.push_back(static_cast<int>(rank));
    return ranks;
  }

  std::string late(Milliseconds limit, const std::string& place_text) const {
    return fmt::format(
        "{} did not appear within {} s {}: see that every rank is started and its host can connect there; a "
        "later "
        "start needs a longer --start-timeout",
        names_of(missing()), limit.count() / 1000, place_text);
  }

  /// One round: who connects, says hello, or leaves.
  void look(Milliseconds limit) {
    std::vector<pollfd> sockets{{.fd = listener_.socket.get(), .events = POLLIN, .revents = 0}};
    for (const Stranger& each : strangers_)
      sockets.push_back({.fd = each.connection->socket(), .events = POLLIN, .revents = 0});
    for (const auto& peer : meeting_.peers)
      if (peer) sockets.push_back({.fd = peer->socket(), .events = POLLIN, .revents = 0});
    if (poll(sockets.data(), sockets.size(), static_cast<int>(limit.count())) <= 0) return;
    while (strangers_.size() < kMostStrangers) {
      FileDescriptor socket = accept_from(listener_);
      if (!socket.valid()) break;
      strangers_.push_back({std::make_unique<Connection>(std::move(socket)), Clock::now()});
    }
    for (auto each = strangers_.begin(); each != strangers_.end();)
      each = greet(*each) ? strangers_.erase(each) : std::next(each);
    watch_members();
  }

  /// Whether this process is no stranger any more, or has to go.
  bool greet(Stranger& stranger) {
    stranger.connection->read();
    if (const auto message = stranger.connection->next()) return admit(stranger, *message);
    return stranger.connection->ended() || Clock::now() - stranger.since > kHelloLimit;
  }

  bool admit(Stranger& stranger, const Message& message) {
    Member member;
    try {
      member = parse_member(message.content);
    } catch (const Error&) {
      return true;
    }
    if (message.type != MessageType::hello || member.token != meeting_.members[0].token) return true;
    std::string problem = mismatch(meeting_.members[0], member);
    if (problem.empty() && meeting_.peers[member.rank])
      problem = mismatch(meeting_.members[member.rank], member);
    if (!problem.empty()) {
      meeting_.peers.push_back(std::move(stranger.connection));
      give_up(problem, ErrorKind::user);
    }
    stranger.connection->send(MessageType::status);  // heard: the rest comes when all are there
    meeting_.members[member.rank] = member;
    meeting_.peers[member.rank] = std::move(stranger.connection);
    return true;
  }

  void watch_members() {
    for (size_t rank = 1; rank < meeting_.peers.size(); ++rank) {
      if (!meeting_.peers[rank]) continue;
      (void)meeting_.peers[rank]->receive();
      if (meeting_.peers[rank]->ended())
        give_up(name_of(meeting_.members[rank]) + " ended while it waited for the other ranks",
                ErrorKind::failure);
    }
  }

  [[noreturn]] void give_up(const std::string& problem, ErrorKind kind) {
    const SharedError error(kind, problem);
    const auto text = std::make_shared<const std::string>(to_text(error));
    for (const auto& peer : meeting_.peers)
      if (peer) peer->send(MessageType::end, text);
    const Clock::time_point end = Clock::now() + kRefusalTime;
    for (const auto& peer : meeting_.peers) {
      while (peer && !peer->ended() && Clock::now() < end) {
        wait_readable(peer->socket(), Milliseconds(20));
        (void)peer->receive();
      }
    }
    throw error;
  }

  const Listener& listener_;
  Meeting meeting_;
  std::list<Stranger> strangers_;
};

}  // namespace

Meeting lead_meeting(const Member& self, const Listener& listener, Milliseconds limit,
                     const std::string& place_text) {
  return Leader(self, listener).wait(limit, place_text);
}

}  // namespace perceiver
