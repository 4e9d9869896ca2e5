#include "data/batches/loader.h"

#include <utility>

#include "base/check.h"

namespace perceiver {
Loader::Loader(const Dataset& data, Split split, const ModelConfig& model, const ExampleShare& share,
               uint64_t seed, int64_t first_step, Crops crops)
    : share_(share), seed_(seed), step_(first_step) {
  PERCEIVER_ASSERT(share.size() >= 1 && first_step >= 0);
  check_fits(data, model);
  if (model.recurrent()) {
    streams_.emplace(data, split, share.parts * share.part_size, model.context_length);
  } else {
    crops_.emplace(data, split, model.context_length, predicted_positions(model), crops);
  }
  thread_ = std::thread([this, first_step] { run(first_step); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Batch Loader::next() {
  Batch batch;
  next(batch);
  return batch;
}

void Loader::next(Batch& batch) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return !ready_.empty() || failure_ != nullptr; });
  if (ready_.empty()) std::rethrow_exception(failure_);
  std::swap(batch, ready_.front());
  spare_.push_back(std::move(ready_.front()));
  ready_.pop_front();
  ++step_;
  lock.unlock();
  changed_.notify_all();
}

void Loader::run(int64_t step) {
  try {
    Batch batch;
    while (wait_for_room(batch)) {
      fill(step++, batch);
      deliver(std::move(batch));
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
    changed_.notify_all();
  }
}

void Loader::fill(int64_t step, Batch& batch) const {
  if (streams_) return streams_->fill(step, share_, batch);
  crops_->fill(seed_, step, share_, batch);
}

bool Loader::wait_for_room(Batch& batch) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return ready_.size() < ahead || stop_; });
  if (stop_) return false;
  if (!spare_.empty()) {
    batch = std::move(spare_.back());
    spare_.pop_back();
  }
  return true;
}

void Loader::deliver(Batch batch) {
  const std::lock_guard lock(mutex_);
  ready_.push_back(std::move(batch));
  changed_.notify_all();
}

}  // namespace perceiver
