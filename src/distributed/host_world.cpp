#include "distributed/host_world.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace perceiver {
namespace {

void append_number(std::string& text, uint64_t number) {
  text.append(reinterpret_cast<const char*>(&number), sizeof number);
}
void append_text(std::string& text, std::string_view part) {
  append_number(text, part.size());
  text.append(part);
}

/// The next text of a message; whoever sent it knows the token, but lengths are checked all the same.
std::string_view take_text(std::string_view& message) {
  uint64_t bytes = 0;
  PERCEIVER_ASSERT(message.size() >= sizeof bytes);
  std::memcpy(&bytes, message.data(), sizeof bytes);
  message.remove_prefix(sizeof bytes);
  PERCEIVER_ASSERT(message.size() >= bytes);
  const std::string_view text = message.substr(0, bytes);
  message.remove_prefix(bytes);
  return text;
}

/// A thread that no signal interrupts: they are for the program's own.
std::thread start_thread(std::function<void()> work) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread thread(std::move(work));
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

HostWorldOptions complete(HostWorldOptions options) {
  options.heartbeat = std::min(options.heartbeat, options.wait_limit / 10);  // several within the limit
  if (!options.report) options.report = [](const SharedError&) {};
  if (!options.after_death) options.after_death = [] { return std::string(); };
  if (!options.exit) options.exit = [](int code) { _exit(code); };
  if (!options.warn) options.warn = [](const std::string&) {};
  return options;
}

}  // namespace

SharedError numbered(int rank, const SharedError& error) {
  if (rank == 0 && error.kind() == ErrorKind::user) return error;
  return {error.kind(), fmt::format("rank {}: {}", rank, error.what())};
}

HostWorld::HostWorld(int rank, Meeting meeting, HostWorldOptions options, bool mpi)
    : World(rank, static_cast<int>(meeting.members.size()), meeting.members[rank].local_rank,
            meeting.members[rank].local_size),
      members_(std::move(meeting.members)),
      options_(complete(std::move(options))),
      mpi_(mpi),
      peers_(std::move(meeting.peers)),
      left_(peers_.size()),
      arrived_(members_.size()),
      states_(members_.size()),
      heard_(members_.size()),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!wake_.valid()) throw_failure("eventfd: {}", std::strerror(errno));
  thread_ = start_thread([this] { serve(); });
}

HostWorld::~HostWorld() {
  {
    const Lock lock(mutex_);
    closing_ = true;
  }
  wake();
  thread_.join();
}

std::vector<std::string> HostWorld::gather(const std::string& mine, std::string_view what) {
  if (mine.size() > Connection::kLargest / (2 * members_.size()))
    throw_failure("{}: {} MiB of each rank are too many to gather", what, mine.size() >> 20);
  const Wait wait(this, std::string(what));
  Lock lock(mutex_);
  return leads() ? collect(lock, mine, what) : contribute(lock, mine, what);
}

std::vector<std::string> HostWorld::collect(Lock& lock, const std::string& mine, std::string_view what) {
  std::vector<std::string> all{mine};
  auto result = std::make_shared<std::string>();
  append_text(*result, mine);
  for (int rank = 1; rank < size_; ++rank) {
    wait_for(lock, [&] { return !arrived_[rank].empty() || left_[rank]; });
    if (arrived_[rank].empty()) throw_failure("{} left before {}", name_of(members_[rank]), what);
    const std::string message = std::move(arrived_[rank].front());
    arrived_[rank].pop_front();
    std::string_view rest = message;
    const std::string_view theirs = take_text(rest);
    if (theirs != what)
      throw_failure("internal error: rank 0 is at {}, but {} at {}", what, name_of(members_[rank]), theirs);
    all.emplace_back(take_text(rest));
    append_text(*result, all.back());
  }
  for (const auto& peer : peers_)
    if (peer) peer->send(MessageType::result, result);
  wake();
  return all;
}

std::vector<std::string> HostWorld::contribute(Lock& lock, const std::string& mine, std::string_view what) {
  std::string message;
  append_text(message, what);
  append_text(message, mine);
  peers_[0]->send(MessageType::gather, std::move(message));
  wake();
  wait_for(lock, [&] { return !results_.empty() || left_[0]; });
  if (results_.empty()) throw_failure("rank 0 left before {}", what);
  const std::string result = std::move(results_.front());
  results_.pop_front();
  std::vector<std::string> all;
  for (std::string_view rest = result; all.size() < members_.size();) all.emplace_back(take_text(rest));
  return all;
}

void HostWorld::wait_for(Lock& lock, const std::function<bool()>& condition) {
  changed_.wait(lock, [&] { return error_ || condition(); });
  if (error_) throw SharedError(*error_);
}

void HostWorld::begin_wait(std::string what) {
  const Lock lock(mutex_);
  if (waits_.empty()) wait_began_ = watch_.seconds();
  waits_.push_back(std::move(what));
}

void HostWorld::end_wait() {
  const Lock lock(mutex_);
  mine_.what = std::move(waits_.back());
  waits_.pop_back();
  ++mine_.finished;
}

RankStatus HostWorld::own_status() const {
  RankStatus status = mine_;
  if (worked_at_ >= 0) status.worked = watch_.seconds() - worked_at_;
  if (waits_.empty()) return status;
  status.what = waits_.front();
  status.waited = watch_.seconds() - wait_began_;
  return status;
}

void HostWorld::request_stop() {
  const Lock lock(mutex_);
  stop_all();
}

void HostWorld::stop_all() {
  if (stop_.exchange(true)) return;
  send_to_peers(MessageType::stop);
  wake();
}

void HostWorld::send_to_peers(MessageType type, const std::string& content) {
  const auto shared = std::make_shared<const std::string>(content);
  for (const auto& peer : peers_)
    if (peer) peer->send(type, shared);
}

void HostWorld::end(SharedError error, bool report) {
  if (error_) return;
  error_ = std::move(error);
  reports_ = report;
  changed_.notify_all();
  wake();
}

/// Ranks that fail alike, e.g. for a file that none of them finds, are one failure of all.
void HostWorld::note_failure(int rank, SharedError error, bool shared) {
  const bool alike = failure_ && std::string_view(failure_->what()) == error.what();
  if (shared || alike || size_ == 1) return end(std::move(error), true);
  remember_failure(rank, std::move(error));
}

void HostWorld::remember_failure(int rank, SharedError error) {
  if (failure_) return;
  failure_ = std::move(error);
  failed_ = rank;
  failed_at_ = watch_.seconds();
}

void HostWorld::fail(const Error& error) {
  const bool shared = dynamic_cast<const SharedError*>(&error) != nullptr;
  const SharedError mine(error.kind(), error.what());
  Lock lock(mutex_);
  if (leads()) {
    note_failure(0, mine, shared);
  } else if (!error_) {
    peers_[0]->send(shared ? MessageType::failed_alike : MessageType::failed, to_text(mine));
    wake();
    changed_.wait_for(lock, options_.answer_limit, [&] { return error_.has_value(); });
    end(shared ? mine : numbered(rank_, mine), true);  // unless rank 0 has answered
  }
  changed_.wait(lock, [&] { return over_; });
}

void HostWorld::leave() {
  (void)gather("", "the end of the run");
  const Lock lock(mutex_);
  std::fill(left_.begin(), left_.end(), true);
}

void HostWorld::wake() const {
  const uint64_t one = 1;
  (void)!write(wake_.get(), &one, sizeof one);
}

}  // namespace perceiver
