// The ranks as processes: rank 0 has a TCP connection to each of the others. Results of gathers, requests to
// stop and the end of a run travel over it; a thread in each process sends and receives, tells rank 0 about
// once a second what its process is doing, and notices when another one has gone.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "distributed/meeting.h"
#include "distributed/process_place.h"
#include "distributed/rank_watch.h"
#include "distributed/shared_error.h"
#include "distributed/world.h"

namespace perceiver {

struct HostWorldOptions {
  Milliseconds start_limit{300'000};  ///< for all ranks to meet
  Milliseconds wait_limit{600'000};   ///< for one wait or gather
  Milliseconds answer_limit{5000};    ///< for rank 0 to answer that a rank failed
  Milliseconds heartbeat{1000};
  /// Reports why the run ends, on one rank only. Called from the world's thread.
  std::function<void(const SharedError&)> report;
  /// Ends the process with this code (1 or 2) after the report, on every rank. Called from the world's
  /// thread; if it returns, gather() throws. Default: _exit.
  std::function<void(int code)> exit;
  std::function<void(const std::string&)> warn;
  /// A request to stop made by a signal handler, looked at several times a second; may be null.
  const std::atomic<bool>* stop = nullptr;
  /// Ends the message about a rank that died: what the user can do. Called from the world's thread; must not
  /// throw.
  std::function<std::string()> after_death;
};

/// The error with the number of the rank that has it; a mistake of the user that rank 0 finds concerns all.
SharedError numbered(int rank, const SharedError& error);

class HostWorld final : public World {
 public:
  /// Meets the other ranks. Null for a process that was started alone. Throws `user` or `failure` if that
  /// does not succeed within the limit; SharedError if every rank throws it.
  static std::shared_ptr<HostWorld> open(const ProcessPlace& place, HostWorldOptions options);
  /// Of ranks that have met. `mpi`: they were started by MPI.
  HostWorld(int rank, Meeting meeting, HostWorldOptions options, bool mpi);
  ~HostWorld() override;

  std::vector<std::string> gather(const std::string& mine, std::string_view what) override;
  void request_stop() override;
  bool stop_requested() const override { return stop_; }
  void still_working() override { works_ = true; }
  /// Each process of a host has its own, or sees only one. May be one more than there are: opening it says
  /// so.
  int gpu() const override;
  std::shared_ptr<Communicator> communicator(DeviceContext& context, bool deterministic) override;

  /// This rank cannot go on: ends every process, with one report. Does not return if the processes exit. An
  /// `error` that is not a SharedError is reported with the number of the rank.
  void fail(const Error& error);
  /// Collective, the last call: waits for all ranks to come here; then they may end when they like.
  void leave();

  const std::vector<Member>& members() const { return members_; }

 protected:
  void begin_wait(std::string what) override;
  void end_wait() override;

 private:
  using Lock = std::unique_lock<std::mutex>;

  std::vector<std::string> collect(Lock& lock, const std::string& mine, std::string_view what);
  std::vector<std::string> contribute(Lock& lock, const std::string& mine, std::string_view what);
  void wait_for(Lock& lock, const std::function<bool()>& condition);

  // Under the lock:
  void note_failure(int rank, SharedError error, bool shared);
  void remember_failure(int rank, SharedError error);
  void end(SharedError error, bool report);
  void send_to_peers(MessageType type, const std::string& content = "");
  void stop_all();
  RankStatus own_status() const;

  // The thread:
  void serve();
  void poll_sockets();
  void look_at_peers();
  void handle(int from, Message message);
  void handle_end_of(int peer);
  std::string doing(int peer) const;
  void keep_time();
  void watch_as_leader();
  void watch_leader();
  bool speaks_for_leader(bool host_gone) const;
  void finish_end();
  void part();
  void wake() const;

  const std::vector<Member> members_;
  const HostWorldOptions options_;
  const bool mpi_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::unique_ptr<Connection>> peers_;  ///< by rank; the ranks other than 0 have only that to 0
  std::vector<bool> left_;                          ///< who said goodbye
  std::vector<std::deque<std::string>> arrived_;    ///< rank 0: what others gave to gathers
  std::deque<std::string> results_;                 ///< others: of gathers
  std::vector<RankStatus> states_;
  std::vector<double> heard_;  ///< by the watch
  std::vector<std::string> waits_;
  RankStatus mine_;
  double wait_began_ = 0, last_beat_ = -1e9;
  std::atomic<bool> works_ = false;  ///< since the thread has last looked
  double worked_at_ = -1;            ///< by the watch; -1: never
  WatchClock watch_;
  std::optional<SharedError> failure_;  ///< rank 0: what a rank failed with, not reported yet
  int failed_ = 0;                      ///< that rank
  double failed_at_ = 0;
  std::optional<SharedError> error_;  ///< the run ends
  bool reports_ = false;              ///< by this rank
  bool over_ = false;                 ///< and it has ended
  bool closing_ = false;
  std::atomic<bool> stop_ = false;
  FileDescriptor wake_;
  std::thread thread_;
};

}  // namespace perceiver
