#include "core/device_context.h"

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>

#include "core/check.h"

namespace perceiver {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

// Sizes are rounded so that near-equal requests share blocks; at most an eighth is wasted.
size_t rounded(size_t bytes) {
  size_t step = kAlignment;
  while (step * 16 < bytes) step *= 2;
  return (std::max<size_t>(bytes, 1) + step - 1) / step * step;
}

class CpuAllocator final : public CachingAllocator {
 public:
  ~CpuAllocator() override { trim(); }

 protected:
  void* system_allocate(size_t bytes) override {
    const size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
    void* pointer = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (pointer != nullptr && bytes >= kHugePage) madvise(pointer, bytes, MADV_HUGEPAGE);
    return pointer;
  }
  void system_release(void* pointer, size_t) noexcept override { std::free(pointer); }
};

}  // namespace

void* CachingAllocator::allocate(size_t bytes) {
  const size_t size = rounded(bytes);
  std::lock_guard lock(mutex_);
  void* pointer = nullptr;
  if (auto found = free_.find(size); found != free_.end() && !found->second.empty()) {
    pointer = found->second.back();
    found->second.pop_back();
  } else {
    pointer = system_allocate(size);
    if (pointer == nullptr) {
      trim_locked();
      pointer = system_allocate(size);
    }
    if (pointer == nullptr) {
      throw_failure(
          "out of memory: {} MiB asked for while {} MiB are in use; lower train.batch (or raise "
          "train.micro_batches), "
          "model.context_length or model.latents, or set train.recompute: block",
          size >> 20, statistics_.live_bytes >> 20);
    }
    ++statistics_.system_allocations;
    statistics_.reserved_bytes += static_cast<int64_t>(size);
    sizes_.emplace(pointer, size);
  }
  statistics_.live_bytes += static_cast<int64_t>(size);
  statistics_.peak_bytes = std::max(statistics_.peak_bytes, statistics_.live_bytes);
  return pointer;
}

void CachingAllocator::release(void* pointer) noexcept {
  std::lock_guard lock(mutex_);
  const size_t size = sizes_.at(pointer);
  free_[size].push_back(pointer);
  statistics_.live_bytes -= static_cast<int64_t>(size);
}

void CachingAllocator::trim() {
  std::lock_guard lock(mutex_);
  trim_locked();
}

void CachingAllocator::trim_locked() {
  for (auto& [size, blocks] : free_) {
    for (void* block : blocks) {
      sizes_.erase(block);
      statistics_.reserved_bytes -= static_cast<int64_t>(size);
      system_release(block, size);
    }
    blocks.clear();
  }
}

MemoryStatistics CachingAllocator::statistics() const {
  std::lock_guard lock(mutex_);
  return statistics_;
}

void CachingAllocator::reset_peak() {
  std::lock_guard lock(mutex_);
  statistics_.peak_bytes = statistics_.live_bytes;
}

std::shared_ptr<DeviceContext> DeviceContext::cpu(int threads) {
  const int available = std::max(1, omp_get_num_procs());
  const int used = threads > 0 ? threads : available;
  omp_set_num_threads(used);
  return std::shared_ptr<DeviceContext>(
      new DeviceContext(Device{DeviceKind::cpu, 0}, std::make_shared<CpuAllocator>(), used));
}

}  // namespace perceiver
