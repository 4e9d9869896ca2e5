// The CUDA device: one stream per context, pinned staging for copies from the host, graphs.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <optional>

#include "base/check.h"
#include "base/processors.h"
#include "kernels/cuda/attention/cudnn_attention.h"
#include "kernels/cuda/gemm/gemm.h"
#include "kernels/cuda/support/errors.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {
namespace {

using kernels::cuda::check;

constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;

/// Pinned buffers for copies from the host, which therefore never wait for the device. A buffer is reused
/// once the copies from it have completed.
class Staging {
 public:
  explicit Staging(cudaStream_t stream) : stream_(stream) {}
  ~Staging() {
    for (Buffer& buffer : buffers_) {
      if (buffer.memory == nullptr) continue;
      cudaEventSynchronize(buffer.sent);
      cudaEventDestroy(buffer.sent);
      cudaFreeHost(buffer.memory);
    }
  }
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  void upload(void* target, const void* source, size_t bytes) {
    std::lock_guard lock(mutex_);
    for (size_t done = 0; done < bytes;) {
      if (used_ == kBufferBytes) next_buffer();
      Buffer& buffer = open_buffer();
      const size_t part = std::min(bytes - done, kBufferBytes - used_);
      std::memcpy(buffer.memory + used_, static_cast<const std::byte*>(source) + done, part);
      check(cudaMemcpyAsync(static_cast<std::byte*>(target) + done, buffer.memory + used_, part,
                            cudaMemcpyHostToDevice, stream_),
            "copy to the device");
      check(cudaEventRecord(buffer.sent, stream_), "event");
      used_ = std::min(kBufferBytes, (used_ + part + 255) / 256 * 256);
      done += part;
    }
  }

 private:
  static constexpr size_t kBufferBytes = size_t{16} << 20;
  struct Buffer {
    std::byte* memory = nullptr;
    cudaEvent_t sent = nullptr;
  };

  void next_buffer() {
    current_ = (current_ + 1) % buffers_.size();
    used_ = 0;
    if (buffers_[current_].memory != nullptr)
      check(cudaEventSynchronize(buffers_[current_].sent), "copy to the device");
  }
  Buffer& open_buffer() {
    Buffer& buffer = buffers_[current_];
    if (buffer.memory == nullptr) {
      check(cudaMallocHost(reinterpret_cast<void**>(&buffer.memory), kBufferBytes), "pinned memory");
      check(cudaEventCreateWithFlags(&buffer.sent, cudaEventDisableTiming), "event");
    }
    return buffer;
  }

  std::mutex mutex_;
  cudaStream_t stream_;
  std::array<Buffer, 4> buffers_;
  size_t current_ = 0, used_ = 0;
};

/// The stream and its staging buffers, shared by tensors that outlive the context.
struct Queue {
  explicit Queue(int device_index) : index(device_index) {
    check(cudaSetDevice(index), "device");
    check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream");
    staging.emplace(stream);
  }
  ~Queue() {
    cudaStreamSynchronize(stream);
    staging.reset();
    cudaStreamDestroy(stream);
  }
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  int index;
  cudaStream_t stream = nullptr;
  std::optional<Staging> staging;
};

class CudaMemory final : public DeviceMemory {
 public:
  explicit CudaMemory(std::shared_ptr<Queue> queue) : queue_(std::move(queue)) {}
  ~CudaMemory() override { trim(); }

  void upload(void* target, const void* source, size_t bytes) override {
    check(cudaSetDevice(queue_->index), "device");
    queue_->staging->upload(target, source, bytes);
  }
  void download(void* target, const void* source, size_t bytes) override {
    check(cudaSetDevice(queue_->index), "device");
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToHost, queue_->stream), "copy to the host");
    check(cudaStreamSynchronize(queue_->stream), "work before a copy to the host");
  }
  void copy(void* target, const void* source, size_t bytes) override {
    check(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDeviceToDevice, queue_->stream), "copy");
  }
  void zero(void* target, size_t bytes) override {
    if (bytes > 0) check(cudaMemsetAsync(target, 0, bytes, queue_->stream), "zeros");
  }

 protected:
  void* system_allocate(size_t bytes) override {
    check(cudaSetDevice(queue_->index), "device");
    void* pointer = nullptr;
    const cudaError_t status = cudaMalloc(&pointer, bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // clear it: the next launch should not report it
      return nullptr;
    }
    check(status, "memory");
    return pointer;
  }
  void system_release(void* pointer, size_t) noexcept override {
    cudaSetDevice(queue_->index);
    cudaStreamSynchronize(queue_->stream);  // enqueued work may still use it
    cudaFree(pointer);
  }
  int64_t system_available() const override {
    check(cudaSetDevice(queue_->index), "device");
    size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "memory of the device");
    return static_cast<int64_t>(free);
  }
  std::string capacity() const override {
    size_t unused = 0, total = 0;
    cudaMemGetInfo(&unused, &total);
    return fmt::format("{} MiB free of {} MiB on the GPU", unused >> 20, total >> 20);
  }

 private:
  std::shared_ptr<Queue> queue_;
};

class CudaMailbox final : public Mailbox {
 public:
  CudaMailbox(std::shared_ptr<Queue> queue, size_t bytes) : queue_(std::move(queue)), bytes_(bytes) {
    check(cudaMallocHost(reinterpret_cast<void**>(&content_), bytes), "pinned memory");
    check(cudaEventCreateWithFlags(&arrived_, cudaEventDisableTiming), "event");
  }
  ~CudaMailbox() override {
    cudaEventSynchronize(arrived_);
    cudaEventDestroy(arrived_);
    cudaFreeHost(content_);
  }
  void post(size_t offset, const void* source, size_t bytes) override {
    PERCEIVER_ASSERT(offset + bytes <= bytes_);
    check(cudaMemcpyAsync(content_ + offset, source, bytes, cudaMemcpyDeviceToHost, queue_->stream),
          "copy to the host");
  }
  std::byte* content() override { return content_; }
  void seal() override { check(cudaEventRecord(arrived_, queue_->stream), "event"); }
  const std::byte* wait() override {
    check(cudaEventSynchronize(arrived_), "work on the device");
    return content_;
  }

 private:
  std::shared_ptr<Queue> queue_;
  size_t bytes_;
  std::byte* content_ = nullptr;
  cudaEvent_t arrived_ = nullptr;
};

class CudaGraph final : public RecordedWork {
 public:
  CudaGraph(std::shared_ptr<Queue> queue, cudaGraph_t graph) : queue_(std::move(queue)) {
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "making a graph");
  }
  ~CudaGraph() override {
    cudaStreamSynchronize(queue_->stream);
    cudaGraphExecDestroy(executable_);
  }
  void replay() override { check(cudaGraphLaunch(executable_, queue_->stream), "running a graph"); }

 private:
  std::shared_ptr<Queue> queue_;
  cudaGraphExec_t executable_ = nullptr;
};

class CudaContext final : public DeviceContext {
 public:
  CudaContext(int index, const cudaDeviceProp& properties, int threads)
      : DeviceContext(properties.name, threads),
        queue_(std::make_shared<Queue>(index)),
        gemm_context_(std::make_unique<kernels::cuda::GemmContext>()) {
    memory_ = new_arena();
    launch_.device = {DeviceKind::cuda, index};
    launch_.stream = queue_->stream;
    launch_.sm_count = properties.multiProcessorCount;
    launch_.gemm_context = gemm_context_.get();
    launch_.cudnn = &cudnn_;
    launch_.workspace = memory_->allocate(static_cast<size_t>(kWorkspaceBytes));
    launch_.workspace_bytes = kWorkspaceBytes;
  }
  ~CudaContext() override { memory_->release(launch_.workspace); }

  std::unique_ptr<Mailbox> new_mailbox(size_t bytes) const override {
    make_current();
    return std::make_unique<CudaMailbox>(queue_, bytes);
  }

  std::unique_ptr<RecordedWork> record(const std::function<void()>& work) const override {
    make_current();
    check(cudaStreamBeginCapture(queue_->stream, cudaStreamCaptureModeThreadLocal), "recording a graph");
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(queue_->stream, &graph);
      if (graph != nullptr) cudaGraphDestroy(graph);
      cudaGetLastError();
      throw;
    }
    check(cudaStreamEndCapture(queue_->stream, &graph), "recording a graph");
    return std::make_unique<CudaGraph>(queue_, graph);
  }

  void synchronize() const override { check(cudaStreamSynchronize(queue_->stream), "work on the device"); }

 protected:
  void make_current() const override { check(cudaSetDevice(queue_->index), "device"); }
  std::shared_ptr<DeviceMemory> make_memory() const override { return std::make_shared<CudaMemory>(queue_); }

 private:
  std::shared_ptr<Queue> queue_;
  std::unique_ptr<kernels::cuda::GemmContext> gemm_context_;
  kernels::cuda::CudnnPlans cudnn_;
};

}  // namespace

int DeviceContext::cuda_devices() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

std::shared_ptr<DeviceContext> DeviceContext::cuda(int index, int threads) {
  const int count = cuda_devices();
  if (count == 0) throw_user("device: cuda, but there is no NVIDIA GPU, or no driver for it");
  if (index < 0 || index >= count)
    throw_user("GPU {} requested; there are {}, numbered from 0; several processes of a host need one each",
               index, count);
  cudaDeviceProp properties{};
  check(cudaGetDeviceProperties(&properties, index), "properties of the device");
  if (properties.major < 8)
    throw_user("GPU {} ({}) has compute capability {}.{}; 8.0 or later is needed", index, properties.name,
               properties.major, properties.minor);
  return std::make_shared<CudaContext>(index, properties, threads > 0 ? threads : available_processors());
}

}  // namespace perceiver
