// One compute device as the library uses it: where memory comes from and where work is enqueued. There is no
// current device; every tensor and every kernel launch names its context.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/dtype.h"

namespace perceiver {

struct MemoryStatistics {
  int64_t live_bytes = 0;          ///< handed out and not returned
  int64_t peak_bytes = 0;          ///< largest `live_bytes` so far
  int64_t reserved_bytes = 0;      ///< taken from the system
  int64_t system_allocations = 0;  ///< how often the system was asked
};

/// Keeps freed blocks for reuse, by exact rounded size: after the first training step every request is met
/// from the cache and the system is not asked again. Thread-safe.
class CachingAllocator {
 public:
  CachingAllocator() = default;
  virtual ~CachingAllocator() = default;
  CachingAllocator(const CachingAllocator&) = delete;
  CachingAllocator& operator=(const CachingAllocator&) = delete;

  void* allocate(size_t bytes);
  void release(void* pointer) noexcept;
  /// Returns every cached, unused block to the system.
  void trim();
  MemoryStatistics statistics() const;
  void reset_peak();

 protected:
  /// Memory of at least `bytes`, aligned to 64 bytes, or null.
  virtual void* system_allocate(size_t bytes) = 0;
  virtual void system_release(void* pointer, size_t bytes) noexcept = 0;

 private:
  void trim_locked();

  mutable std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> free_;
  std::unordered_map<void*, size_t> sizes_;
  MemoryStatistics statistics_;
};

class DeviceContext {
 public:
  /// The CPU, with `threads` worker threads (0: as many as the machine has).
  static std::shared_ptr<DeviceContext> cpu(int threads = 0);

  Device device() const { return device_; }
  CachingAllocator& allocator() { return *allocator_; }
  /// Tensors share the allocator, so that they may outlive the context.
  const std::shared_ptr<CachingAllocator>& shared_allocator() const { return allocator_; }
  int threads() const { return threads_; }
  /// Opaque queue of the device that kernels are enqueued on; null on the CPU, where a launch is a call.
  void* stream() const { return nullptr; }

 private:
  DeviceContext(Device device, std::shared_ptr<CachingAllocator> allocator, int threads)
      : device_(device), allocator_(std::move(allocator)), threads_(threads) {}

  Device device_;
  std::shared_ptr<CachingAllocator> allocator_;
  int threads_;
};

}  // namespace perceiver
