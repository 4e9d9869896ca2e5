// A compute device: the source of memory and the queue of work. There is no current device; every tensor and
// every kernel launch names its context.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "perceiver/experimental/dtype.h"
#include "perceiver/experimental/launch.h"
#include "perceiver/export.h"

namespace perceiver {

class WorkerPool;

struct MemoryStatistics {
  int64_t live_bytes = 0;          ///< allocated and not released
  int64_t peak_bytes = 0;          ///< largest `live_bytes` so far
  int64_t reserved_bytes = 0;      ///< allocated from the system
  int64_t system_allocations = 0;  ///< number of allocations from the system

  PERCEIVER_API void add(const MemoryStatistics& other);
};

/// A device's memory: a caching allocator, and copies in stream order. Freed blocks are cached by their exact
/// rounded size: after the first training step every request is met from the cache. Allocation is
/// thread-safe.
class PERCEIVER_API DeviceMemory {
 public:
  DeviceMemory() = default;
  virtual ~DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  void* allocate(size_t bytes);
  void release(void* pointer) noexcept;
  /// Returns all cached blocks to the system.
  void trim();
  /// Bytes that could be allocated now, including cached blocks.
  int64_t available() const;
  MemoryStatistics statistics() const;
  void reset_peak();

  /// Copies from the host, in stream order; `source` may be changed as soon as this returns.
  virtual void upload(void* target, const void* source, size_t bytes) = 0;
  /// Copies to the host, and waits for completion.
  virtual void download(void* target, const void* source, size_t bytes) = 0;
  /// Copies within the device, in stream order.
  virtual void copy(void* target, const void* source, size_t bytes) = 0;
  virtual void zero(void* target, size_t bytes) = 0;

 protected:
  /// Memory of at least `bytes`, aligned to 64 bytes, or null.
  virtual void* system_allocate(size_t bytes) = 0;
  virtual void system_release(void* pointer, size_t bytes) noexcept = 0;
  /// Bytes that the system could provide now.
  virtual int64_t system_available() const = 0;
  /// Describes the total memory, for the out-of-memory message.
  virtual std::string capacity() const = 0;

 private:
  void* system_allocate_or_throw(size_t size);
  void trim_locked();

  mutable std::mutex mutex_;
  std::unordered_map<size_t, std::vector<void*>> free_;
  std::unordered_map<void*, size_t> sizes_;
  MemoryStatistics statistics_;
};

/// Small results sent to the host while the device continues to work: `post` what was computed so far,
/// `seal`, and later `wait` for exactly that. Work on the device may also write to `content` before the
/// `seal`.
class PERCEIVER_API Mailbox {
 public:
  virtual ~Mailbox() = default;
  /// Copies `bytes` from the device to `offset`, in stream order.
  virtual void post(size_t offset, const void* source, size_t bytes) = 0;
  virtual std::byte* content() = 0;
  virtual void seal() = 0;
  /// Waits for, and returns, what was posted before the last `seal`.
  virtual const std::byte* wait() = 0;
};

/// Launches recorded once, to be replayed together (a CUDA graph). Owns no memory.
class PERCEIVER_API RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  virtual void replay() = 0;
};

/// A device as programs use it. On the CPU any number of threads may compute at the same time; a GPU's stream
/// belongs to one thread at a time (`exclusive`). Everything made with a context holds a reference to it, so
/// it must live longer than they do; tensors alone may outlive it.
class PERCEIVER_API DeviceContext {
 public:
  /// The CPU, with `threads` threads (0: available_processors()), the calling one included. They belong to
  /// the context: every thread that uses it shares them.
  static std::shared_ptr<DeviceContext> cpu(int threads = 0);
  /// GPU `index`, with `threads` threads for loops on the host, as above; throws `user` if there is none or
  /// the library was built without CUDA.
  static std::shared_ptr<DeviceContext> cuda(int index = 0, int threads = 0);
  /// "cpu", "cuda" (GPU `index`), "cuda:1", or "auto": GPU `index` if this build can use one, else the CPU.
  /// Throws `user` for another name.
  static std::shared_ptr<DeviceContext> open(const std::string& device, int threads = 0, int index = 0);
  /// GPUs that this process can see; 0 without a driver, or if the library was built without CUDA.
  static int cuda_devices();

  virtual ~DeviceContext() = default;
  DeviceContext(const DeviceContext&) = delete;
  DeviceContext& operator=(const DeviceContext&) = delete;

  Device device() const { return launch_.device; }
  bool is_cuda() const { return device().kind == DeviceKind::cuda; }
  /// E.g. "cpu" or "NVIDIA H100 80GB HBM3".
  const std::string& name() const { return name_; }
  /// Threads of loops on the host, the calling one included.
  int threads() const;
  /// Runs loops on the host, also for a GPU's context; for the library itself.
  WorkerPool& workers() const { return *workers_; }
  /// Whether operations can compute in this type: f32 everywhere, f64 on the CPU, bf16 on a GPU.
  bool computes_in(DType type) const {
    return type == DType::f32 || type == (is_cuda() ? DType::bf16 : DType::f64);
  }
  void set_matmul_precision(MatmulPrecision matmul_precision) { launch_.matmul_precision = matmul_precision; }
  /// For the next kernel; makes the device and the context's workers current for the calling thread. Throws
  /// `Interrupted` if that thread's work is to be given up (base/interrupt.h).
  const Launch& launch() const;

  /// Tensors share ownership of the memory, so they may outlive the context.
  const std::shared_ptr<DeviceMemory>& memory() const { return memory_; }
  /// A separate arena on the same device and stream: blocks freed to it are reused only from it.
  std::shared_ptr<DeviceMemory> new_arena();
  /// Sums over the context's memory and all arenas.
  MemoryStatistics statistics() const;
  void reset_peak();

  virtual std::unique_ptr<Mailbox> new_mailbox(size_t bytes) const = 0;
  /// Records what `work` launches without running it; `work` must neither allocate from the system nor wait.
  /// Null if the device cannot record; then `work` was not called.
  virtual std::unique_ptr<RecordedWork> record(const std::function<void()>& work) const = 0;
  /// Waits until all enqueued work is done.
  virtual void synchronize() const = 0;
  /// Hold this while enqueuing work that must not interleave with another thread's: a GPU's stream, workspace
  /// and recording belong to one thread at a time. Empty on the CPU, where threads compute concurrently.
  std::unique_lock<std::recursive_mutex> exclusive() const {
    return is_cuda() ? std::unique_lock(exclusive_) : std::unique_lock<std::recursive_mutex>();
  }

 protected:
  DeviceContext(std::string name, int threads);
  virtual void make_current() const = 0;
  virtual std::shared_ptr<DeviceMemory> make_memory() const = 0;

  Launch launch_;
  std::shared_ptr<DeviceMemory> memory_;

 private:
  friend class ArenaScope;

  mutable std::recursive_mutex exclusive_;
  std::string name_;
  std::shared_ptr<WorkerPool> workers_;
  std::vector<std::weak_ptr<DeviceMemory>> arenas_;  ///< including the context's own memory
};

/// During its lifetime, new tensors of the context are allocated from `arena`.
class ArenaScope {
 public:
  ArenaScope(DeviceContext& context, std::shared_ptr<DeviceMemory> arena)
      : context_(context), outer_(std::exchange(context.memory_, std::move(arena))) {}
  ~ArenaScope() { context_.memory_ = std::move(outer_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  DeviceContext& context_;
  std::shared_ptr<DeviceMemory> outer_;
};

}  // namespace perceiver
