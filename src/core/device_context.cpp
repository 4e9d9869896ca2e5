#include "perceiver/experimental/device_context.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string_view>

#include "base/check.h"
#include "base/cpu_variant.h"
#include "base/interrupt.h"
#include "base/memory_advice.h"
#include "base/processors.h"
#include "base/worker_pool.h"

namespace perceiver {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kHugePage = size_t{2} << 20;

// Sizes are rounded up so that similar requests share blocks; at most an eighth is wasted, and less than 2
// MiB of large blocks.
size_t rounded(size_t bytes) {
  size_t step = kAlignment;
  while (step < kHugePage && step * 16 < bytes) step *= 2;
  return (std::max<size_t>(bytes, 1) + step - 1) / step * step;
}

class CpuMemory final : public DeviceMemory {
 public:
  ~CpuMemory() override { trim(); }

  void upload(void* target, const void* source, size_t bytes) override { move(target, source, bytes); }
  void download(void* target, const void* source, size_t bytes) override { move(target, source, bytes); }
  void copy(void* target, const void* source, size_t bytes) override { move(target, source, bytes); }
  void zero(void* target, size_t bytes) override {
    if (bytes > 0) std::memset(target, 0, bytes);
  }

 protected:
  void* system_allocate(size_t bytes) override {
    const size_t alignment = bytes >= kHugePage ? kHugePage : kAlignment;
    void* pointer = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (pointer != nullptr && bytes >= kHugePage) madvise(pointer, bytes, MADV_HUGEPAGE);
    return pointer;
  }
  void system_release(void* pointer, size_t) noexcept override { std::free(pointer); }
  int64_t system_available() const override {
    std::ifstream file("/proc/meminfo");
    for (std::string name, unit; file >> name;) {
      int64_t kibibytes = 0;
      file >> kibibytes;
      std::getline(file, unit);
      if (name == "MemAvailable:") return kibibytes << 10;
    }
    return int64_t{sysconf(_SC_AVPHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  }
  std::string capacity() const override {
    const int64_t bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
    return fmt::format("{} MiB of memory in total", bytes >> 20);
  }

 private:
  static void move(void* target, const void* source, size_t bytes) {
    if (bytes > 0) std::memcpy(target, source, bytes);
  }
};

class CpuMailbox final : public Mailbox {
 public:
  explicit CpuMailbox(size_t bytes) : content_(bytes) {}
  void post(size_t offset, const void* source, size_t bytes) override {
    PERCEIVER_ASSERT(offset + bytes <= content_.size());
    std::memcpy(content_.data() + offset, source, bytes);
  }
  std::byte* content() override { return content_.data(); }
  void seal() override {}
  const std::byte* wait() override { return content_.data(); }

 private:
  std::vector<std::byte> content_;
};

class CpuContext final : public DeviceContext {
 public:
  explicit CpuContext(int threads) : DeviceContext("cpu", threads) { memory_ = new_arena(); }

  std::unique_ptr<Mailbox> new_mailbox(size_t bytes) const override {
    return std::make_unique<CpuMailbox>(bytes);
  }
  std::unique_ptr<RecordedWork> record(const std::function<void()>&) const override { return nullptr; }
  void synchronize() const override {}

 protected:
  void make_current() const override {}
  std::shared_ptr<DeviceMemory> make_memory() const override { return std::make_shared<CpuMemory>(); }
};

}  // namespace

void MemoryStatistics::add(const MemoryStatistics& other) {
  live_bytes += other.live_bytes;
  peak_bytes += other.peak_bytes;
  reserved_bytes += other.reserved_bytes;
  system_allocations += other.system_allocations;
}

void* DeviceMemory::allocate(size_t bytes) {
  const size_t size = rounded(bytes);
  std::lock_guard lock(mutex_);
  void* pointer = nullptr;
  if (auto found = free_.find(size); found != free_.end() && !found->second.empty()) {
    pointer = found->second.back();
    found->second.pop_back();
  } else {
    pointer = system_allocate_or_throw(size);
  }
  statistics_.live_bytes += static_cast<int64_t>(size);
  statistics_.peak_bytes = std::max(statistics_.peak_bytes, statistics_.live_bytes);
  return pointer;
}

void* DeviceMemory::system_allocate_or_throw(size_t size) {
  void* pointer = system_allocate(size);
  if (pointer == nullptr) {
    trim_locked();
    pointer = system_allocate(size);
  }
  if (pointer == nullptr) {
    throw_failure("out of memory: {} MiB requested with {} MiB in use, and there are {}; {}",
                  (size + (1 << 20) - 1) >> 20, statistics_.live_bytes >> 20, capacity(), kMemoryAdvice);
  }
  ++statistics_.system_allocations;
  statistics_.reserved_bytes += static_cast<int64_t>(size);
  sizes_.emplace(pointer, size);
  return pointer;
}

void DeviceMemory::release(void* pointer) noexcept {
  std::lock_guard lock(mutex_);
  const size_t size = sizes_.at(pointer);
  free_[size].push_back(pointer);
  statistics_.live_bytes -= static_cast<int64_t>(size);
}

void DeviceMemory::trim() {
  std::lock_guard lock(mutex_);
  trim_locked();
}

void DeviceMemory::trim_locked() {
  for (auto& [size, blocks] : free_) {
    for (void* block : blocks) {
      sizes_.erase(block);
      statistics_.reserved_bytes -= static_cast<int64_t>(size);
      system_release(block, size);
    }
    blocks.clear();
  }
}

int64_t DeviceMemory::available() const {
  std::lock_guard lock(mutex_);
  return system_available() + statistics_.reserved_bytes - statistics_.live_bytes;
}

MemoryStatistics DeviceMemory::statistics() const {
  std::lock_guard lock(mutex_);
  return statistics_;
}

void DeviceMemory::reset_peak() {
  std::lock_guard lock(mutex_);
  statistics_.peak_bytes = statistics_.live_bytes;
}

DeviceContext::DeviceContext(std::string name, int threads)
    : name_(std::move(name)), workers_(std::make_shared<WorkerPool>(threads)) {}

int DeviceContext::threads() const {
  return workers_->threads();
}

const Launch& DeviceContext::launch() const {
  InterruptScope::check();
  WorkerPool::use(workers_);
  make_current();
  return launch_;
}

std::shared_ptr<DeviceMemory> DeviceContext::new_arena() {
  std::shared_ptr<DeviceMemory> arena = make_memory();
  std::erase_if(arenas_, [](const auto& each) { return each.expired(); });
  arenas_.push_back(arena);
  return arena;
}

MemoryStatistics DeviceContext::statistics() const {
  MemoryStatistics sum;
  for (const auto& each : arenas_)
    if (const auto arena = each.lock()) sum.add(arena->statistics());
  return sum;
}

void DeviceContext::reset_peak() {
  for (const auto& each : arenas_)
    if (const auto arena = each.lock()) arena->reset_peak();
}

std::shared_ptr<DeviceContext> DeviceContext::cpu(int threads) {
  (void)cpu_variant();  // refuses a wrong PERCEIVER_CPU before any work
  return std::make_shared<CpuContext>(threads > 0 ? threads : available_processors());
}

namespace {

constexpr std::string_view kNumberedGpu = "cuda:";

int gpu_number(const std::string& device) {
  int number = -1;
  const char* const end = device.data() + device.size();
  const auto [rest, error] = std::from_chars(device.data() + kNumberedGpu.size(), end, number);
  if (error != std::errc() || rest != end || number < 0)
    throw_user("device: '{}'; the number of a GPU, from 0, must follow 'cuda:'", device);
  return number;
}

}  // namespace

std::shared_ptr<DeviceContext> DeviceContext::open(const std::string& device, int threads, int index) {
  if (device.starts_with(kNumberedGpu)) return cuda(gpu_number(device), threads);
  if (device != "cpu" && device != "cuda" && device != "auto")
    throw_user("device: '{}'; one of cpu, cuda, cuda:N, auto", device);
  const bool use_gpu = device == "cuda" || (device == "auto" && cuda_devices() > 0);
  return use_gpu ? cuda(index, threads) : cpu(threads);
}

#ifndef PERCEIVER_CUDA
std::shared_ptr<DeviceContext> DeviceContext::cuda(int, int) {
  throw_user("device: cuda, but this build supports only the CPU; use device: cpu or auto");
}

int DeviceContext::cuda_devices() {
  return 0;
}
#endif

}  // namespace perceiver
