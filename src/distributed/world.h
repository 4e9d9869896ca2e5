// The processes that carry out one command together: who they are, what they tell each other on the host, and
// how they end together. Tensors travel through a Communicator.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "distributed/communicator.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {

/// One of the processes ("ranks") of a run. Every rank makes the same collective calls in the same order;
/// each waits for the slowest rank, no longer than the time limit, after which every process ends with a
/// message that names the ranks that are missing. Collective calls come from one thread.
class World {
 public:
  virtual ~World() = default;
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Among the local_size() processes of this machine.
  int local_rank() const { return local_rank_; }
  int local_size() const { return local_size_; }
  /// Which of the GPUs that this process can see is its own.
  virtual int gpu() const { return 0; }
  /// Rank 0 writes files and messages for all.
  bool leads() const { return rank_ == 0; }

  /// Collective: what every rank passed, in order of ranks. `what`, the same on every rank, is for messages:
  /// "the start of training".
  virtual std::vector<std::string> gather(const std::string& mine, std::string_view what) = 0;
  /// Collective: whether any rank passed true.
  bool any(bool mine, std::string_view what);
  /// Collective: rank 0's text.
  std::string from_leader(const std::string& text, std::string_view what);
  /// Collective: throws the same `user` error (SharedError) on every rank, which names the first rank whose
  /// `mine` differs from rank 0's and quotes both. `what`: "the configuration".
  void require_same(const std::string& mine, std::string_view what);

  /// Asks every rank to stop, from any thread, without waiting: stop_requested() becomes true everywhere.
  virtual void request_stop() = 0;
  virtual bool stop_requested() const = 0;

  /// Collective: the group of all ranks, for tensors of `context`'s device. Throws `user` if there is no way
  /// to connect them, saying what is missing. `deterministic`: see Communicator.
  virtual std::shared_ptr<Communicator> communicator(DeviceContext& context, bool deterministic) = 0;

  /// To be called now and then, from any thread, during long work that others may wait for: their time limit
  /// counts from there, not from when they were done.
  virtual void still_working() {}

  /// While this lives, the calling thread waits for other ranks, on the host or through the device; the time
  /// limit counts. `what`: "step 12".
  class Wait {
   public:
    Wait(World* world, std::string what) : world_(world) {
      if (world_ != nullptr) world_->begin_wait(std::move(what));
    }
    ~Wait() {
      if (world_ != nullptr) world_->end_wait();
    }
    Wait(const Wait&) = delete;
    Wait& operator=(const Wait&) = delete;

   private:
    World* world_;
  };

 protected:
  World(int rank, int size, int local_rank, int local_size = 1)
      : rank_(rank), size_(size), local_rank_(local_rank), local_size_(local_size) {}
  virtual void begin_wait(std::string) {}
  virtual void end_wait() {}

  int rank_, size_, local_rank_, local_size_;
};

/// CPU threads of this process where the user does not say: its share of the processors of the host.
int default_threads(const World* world);
/// The same for one of `ranks` on a host of `configured` processors: all `affine` ones of its affinity mask
/// if mpirun or srun can have bound each rank to its own, else a part of those that are `available` to all
/// (mask and quota). At least 1.
int share_of_processors(int affine, int available, int configured, int ranks);

}  // namespace perceiver
