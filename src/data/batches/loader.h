// Training batches, prefetched by a background thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "data/batches/crops.h"
#include "data/batches/streams.h"

namespace perceiver {

/// Delivers the batches of step `first_step`, first_step + 1, and so on. A batch depends only on (data,
/// split, N and M of the model, share, seed, crops, step), not on timing or on where the loader started; the
/// data cursor that a checkpoint stores is therefore just `step()`. One caller at a time. Crops
/// (CropSampler), or for a model that remembers earlier segments streams (StreamSampler).
class Loader {
 public:
  /// Batches of the `share` of each step, of `model.context_length` columns. Throws if the data does not fit
  /// the model or the split is empty. `data` must outlive the loader.
  Loader(const Dataset& data, Split split, const ModelConfig& model, const ExampleShare& share, uint64_t seed,
         int64_t first_step, Crops crops = Crops::uniform);
  /// The whole batch, of `size` examples, crops uniform.
  Loader(const Dataset& data, Split split, const ModelConfig& model, int64_t size, uint64_t seed,
         int64_t first_step)
      : Loader(data, split, model, share_of(size, 1), seed, first_step) {}
  /// Stops the background thread after its current batch.
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  /// The batch of step `step()`, which then advances by one. An exception in the background thread is
  /// rethrown here for the step it belongs to, and by every later call.
  Batch next();
  /// The same without allocation: the loader takes the storage of `batch` for a later step.
  void next(Batch& batch);
  /// The step whose batch comes next.
  int64_t step() const { return step_; }

 private:
  static constexpr size_t ahead = 3;  ///< maximum number of prefetched batches

  void run(int64_t step);
  /// Waits until another batch may be made and provides storage for it; false if it is time to stop.
  bool wait_for_room(Batch& batch);
  void deliver(Batch batch);
  void fill(int64_t step, Batch& batch) const;

  std::optional<CropSampler> crops_;
  std::optional<StreamSampler> streams_;  ///< one of the two
  ExampleShare share_;
  uint64_t seed_;
  int64_t step_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Batch> ready_;     ///< this and the following are guarded by mutex_
  std::vector<Batch> spare_;    ///< storage for reuse
  std::exception_ptr failure_;  ///< rethrown once `ready_` is empty
  bool stop_ = false;
  std::thread thread_;  ///< last, because it uses everything above
};

}  // namespace perceiver
