// Training batches, prepared ahead by a background thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "data/batches/crops.h"

namespace perceiver {

/// Delivers the batch of step `first_step`, then of the step after, and so on. A batch depends on (data,
/// split, model's N and M, size, seed, step) alone, neither on timing nor on where the loader started; so the
/// data cursor that a checkpoint keeps is `step()`. One caller at a time.
class Loader {
 public:
  /// Batches of `size` rows, `model.context_length` columns. Throws if the data do not fit the model or the
  /// split is empty. `data` must outlive the loader.
  Loader(const Dataset& data, Split split, const ModelConfig& model, int64_t size, uint64_t seed,
         int64_t first_step);
  /// Ends the background thread, after the batch it is at.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The batch of step `step()`, which then advances by one. What goes wrong in the background thread is
  /// thrown here, when its turn comes, and at every later call.
  Batch next();
  /// The same without allocation: the storage of `batch` goes back to the loader, for a later step.
  void next(Batch& batch);
  /// The step whose batch comes next.
  int64_t step() const { return step_; }

 private:
  static constexpr size_t ahead = 3;  ///< batches waiting at most

  void run(int64_t step);
  /// Waits until another batch may be made, and hands storage for it; false when it is time to end.
  bool wait_for_room(Batch& batch);
  void deliver(Batch batch);

  CropSampler sampler_;
  int64_t size_;
  uint64_t seed_;
  int64_t step_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;     ///< from here on guarded by mutex_
  std::vector<Batch> spare_;    ///< storage to use again
  std::exception_ptr failure_;  ///< thrown once `ready_` is used up
  bool stop_ = false;
  std::thread thread_;  ///< last: it uses all the above
};

}  // namespace perceiver
