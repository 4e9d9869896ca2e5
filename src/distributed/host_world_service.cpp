// The thread of a HostWorld.
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "base/check.h"
#include "distributed/host_world.h"

namespace perceiver {
namespace {

using Clock = std::chrono::steady_clock;
constexpr Milliseconds kTick{100};
constexpr double kPatience = 0.2;        // seconds for other ranks to fail in the same way
constexpr Milliseconds kFarewell{1000};  // for the other side to take what was sent last

double seconds(Milliseconds time) {
  return std::chrono::duration<double>(time).count();
}

/// A rank that has said nothing for so long has stopped, or its host has.
double silence(Milliseconds heartbeat) {
  return 5 * seconds(heartbeat);
}

}  // namespace

void HostWorld::serve() {
  for (;;) {
    poll_sockets();
    const Lock lock(mutex_);
    watch_.advance(Clock::now());
    look_at_peers();
    if (error_) break;
    if (closing_) return part();
    if (options_.stop != nullptr && *options_.stop) stop_all();
    keep_time();
    if (error_) break;
  }
  finish_end();
}

void HostWorld::poll_sockets() {
  std::vector<pollfd> sockets{{.fd = wake_.get(), .events = POLLIN, .revents = 0}};
  {
    const Lock lock(mutex_);
    for (const auto& peer : peers_)
      if (peer && !peer->ended())
        sockets.push_back({.fd = peer->socket(),
                           .events = static_cast<short>(peer->sending() ? POLLIN | POLLOUT : POLLIN),
                           .revents = 0});
  }
  const Milliseconds limit = std::min(kTick, options_.heartbeat);
  poll(sockets.data(), sockets.size(), static_cast<int>(limit.count()));
  uint64_t wakes = 0;
  (void)!read(wake_.get(), &wakes, sizeof wakes);
}

void HostWorld::look_at_peers() {
  for (size_t i = 0; i < peers_.size() && !error_; ++i) {
    if (!peers_[i]) continue;
    peers_[i]->flush();
    for (Message& message : peers_[i]->receive()) handle(static_cast<int>(i), std::move(message));
    if (peers_[i]->ended()) handle_end_of(static_cast<int>(i));
  }
}

void HostWorld::handle(int from, Message message) {
  heard_[from] = watch_.seconds();
  switch (message.type) {
    case MessageType::gather:
      arrived_[from].push_back(std::move(message.content));
      return changed_.notify_all();
    case MessageType::result:
      results_.push_back(std::move(message.content));
      return changed_.notify_all();
    case MessageType::status:
      states_[from] = parse_status(message.content);
      return;
    case MessageType::stop:
      return stop_all();
    case MessageType::failed:
    case MessageType::failed_alike:
      return note_failure(from, parse_shared_error(message.content),
                          message.type == MessageType::failed_alike);
    case MessageType::end:
      reports_ = false;  // also if this rank was about to
      return end(parse_shared_error(message.content), false);
    case MessageType::gave_up:
      return remember_failure(from, parse_shared_error(message.content));
    case MessageType::goodbye:
      left_[from] = true;
      return changed_.notify_all();
    case MessageType::hello:
    case MessageType::welcome:
      break;
  }
  end(SharedError(ErrorKind::failure, name_of(members_[from]) + " sent a message that makes no sense now"),
      leads());
}

/// The process at the other end has gone. Rank 0 says so; if it is rank 0 itself, the next one does, or where
/// its whole host may have gone, the first rank of another host.
void HostWorld::handle_end_of(int peer) {
  const bool lost = peers_[peer]->lost();
  const bool left = left_[peer];
  const std::string what = doing(peer);
  peers_[peer].reset();
  if (left) return;
  if (failure_) return end(numbered(failed_, *failure_), true);  // may be why
  const std::string how = lost ? "cannot be reached any more (its host or network is gone?)"
                               : "ended without a message (killed, or out of memory?)";
  end(SharedError(ErrorKind::failure,
                  fmt::format("{} {} during {}; every rank ends{}", name_of(members_[peer]), how, what,
                              options_.after_death())),
      leads() || speaks_for_leader(lost));
}

/// What the process at the other end was doing, by its last heartbeat, or where that is older, by what this
/// one has finished beside it.
std::string HostWorld::doing(int peer) const {
  const RankStatus own = own_status();
  return own.finished > states_[peer].finished ? own.what : states_[peer].what;
}

bool HostWorld::speaks_for_leader(bool host_gone) const {
  const auto other = std::find_if(members_.begin(), members_.end(),
                                  [&](const Member& each) { return each.boot != members_[0].boot; });
  return host_gone && other != members_.end() ? other->rank == rank_ : rank_ == 1;
}

void HostWorld::keep_time() {
  if (works_.exchange(false)) worked_at_ = watch_.seconds();
  states_[rank_] = own_status();
  heard_[rank_] = watch_.seconds();
  if (watch_.seconds() - last_beat_ >= seconds(options_.heartbeat)) {
    last_beat_ = watch_.seconds();
    send_to_peers(MessageType::status, to_text(states_[rank_]));
  }
  if (failure_ && watch_.seconds() - failed_at_ > kPatience) return end(numbered(failed_, *failure_), true);
  if (failure_) return;  // nobody else is to blame
  leads() ? watch_as_leader() : watch_leader();
}

void HostWorld::watch_as_leader() {
  for (int rank = 0; rank < size_; ++rank)
    states_[rank].silent = left_[rank] ? 0 : watch_.seconds() - heard_[rank];
  const std::string problem =
      overdue(members_, states_, seconds(options_.wait_limit), silence(options_.heartbeat));
  if (!problem.empty()) end(SharedError(ErrorKind::failure, problem), true);
}

/// Rank 0 watches the others; who watches rank 0? They all do, and allow it some more time to speak first.
void HostWorld::watch_leader() {
  const double silent = watch_.seconds() - heard_[0];
  const double slack = silence(options_.heartbeat);
  const double limit = seconds(options_.wait_limit) + slack;
  if (left_[0] || silent <= slack || std::max(states_[rank_].waited, silent) <= limit) return;
  end(SharedError(
          ErrorKind::failure,
          fmt::format("{} has not been heard of for {:.0f} s, during {} (stopped, or its host or network is "
                      "gone?); every rank ends{}",
                      name_of(members_[0]), silent, states_[rank_].what, options_.after_death())),
      speaks_for_leader(true));
}

/// The report comes before the others hear of it: a launcher may kill all as soon as one ends. Rank 0 hears
/// of it, too: it may have been stopped, and would have its own idea of what is wrong when it wakes.
void HostWorld::finish_end() {
  SharedError error = [&] {
    const Lock lock(mutex_);
    return *error_;
  }();
  if (reports_) options_.report(error);
  {
    const Lock lock(mutex_);
    send_to_peers(leads() || reports_ ? MessageType::end : MessageType::gave_up, to_text(error));
    part();
    over_ = true;
    changed_.notify_all();
  }
  options_.exit(error.kind() == ErrorKind::user ? 2 : 1);
}

/// Says goodbye and gives the other side a moment to read it: a socket that is closed with something unread
/// throws away what it has sent.
void HostWorld::part() {
  send_to_peers(MessageType::goodbye);
  const Clock::time_point begin = Clock::now();
  for (const auto& peer : peers_) {
    while (peer && !peer->ended() && Clock::now() - begin < kFarewell) {
      peer->flush();
      if (!peer->sending()) shutdown(peer->socket(), SHUT_WR);
      wait_readable(peer->socket(), Milliseconds(10));
      (void)peer->receive();
    }
  }
}

}  // namespace perceiver
