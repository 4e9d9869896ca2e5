// For tests of the CUDA kernels: a stream with its workspace, and device arrays that are poisoned before use
// and detect writes beyond their ends.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "perceiver/experimental/launch.h"

namespace perceiver::testing {

inline void require_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

/// Whether to run fewer and smaller cases: under compute-sanitizer a kernel takes many times longer.
inline bool brief_tests() {
  return std::getenv("PERCEIVER_BRIEF_TESTS") != nullptr;
}

/// Without a GPU every test is skipped; there is no other reason to skip.
class CudaTest : public ::testing::Test {
 protected:
  static constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;

  void SetUp() override {
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess || count == 0) GTEST_SKIP() << "no CUDA device";
    cudaDeviceProp properties{};
    require_cuda(cudaGetDeviceProperties(&properties, 0), "properties");
    require_cuda(cudaStreamCreate(&stream_), "stream");
    require_cuda(cudaMalloc(&workspace_, kWorkspaceBytes), "workspace");
    require_cuda(cudaMemset(workspace_, 0xFF, kWorkspaceBytes), "poison");
    launch_.device = {DeviceKind::cuda, 0};
    launch_.stream = stream_;
    launch_.workspace = workspace_;
    launch_.workspace_bytes = kWorkspaceBytes;
    launch_.sm_count = properties.multiProcessorCount;
  }

  void TearDown() override {
    if (stream_ == nullptr) return;
    require_cuda(cudaStreamSynchronize(stream_), "a kernel");
    require_cuda(cudaFree(workspace_), "workspace");
    require_cuda(cudaStreamDestroy(stream_), "stream");
  }

  void synchronize() const { require_cuda(cudaStreamSynchronize(stream_), "a kernel"); }
  const Launch& launch() const { return launch_; }

 private:
  cudaStream_t stream_ = nullptr;
  void* workspace_ = nullptr;
  Launch launch_;
};

/// `count` elements of T on the device, filled with 0xFF bytes (NaN) between two guards.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t count) : count_(count) {
    require_cuda(cudaMalloc(reinterpret_cast<void**>(&base_), bytes() + 2 * kGuard), "array");
    require_cuda(cudaMemset(base_, 0xFF, bytes() + 2 * kGuard), "poison");
    require_cuda(cudaMemset(base_, kMark, kGuard), "guard");
    require_cuda(cudaMemset(base_ + kGuard + bytes(), kMark, kGuard), "guard");
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) { write(values); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() {
    std::vector<uint8_t> guard(2 * kGuard);
    cudaDeviceSynchronize();
    cudaMemcpy(guard.data(), base_, kGuard, cudaMemcpyDeviceToHost);
    cudaMemcpy(guard.data() + kGuard, base_ + kGuard + bytes(), kGuard, cudaMemcpyDeviceToHost);
    for (const uint8_t byte : guard) {
      if (byte == kMark) continue;
      ADD_FAILURE() << "a kernel wrote outside an array of " << bytes() << " bytes";
      break;
    }
    cudaFree(base_);
  }

  T* data() const { return reinterpret_cast<T*>(base_ + kGuard); }
  size_t size() const { return count_; }
  void write(const std::vector<T>& values) const {
    ASSERT_EQ(values.size(), count_);
    require_cuda(cudaMemcpy(data(), values.data(), bytes(), cudaMemcpyHostToDevice), "copy");
  }
  /// Waits for the whole device first.
  std::vector<T> read() const {
    std::vector<T> values(count_);
    require_cuda(cudaDeviceSynchronize(), "a kernel");
    require_cuda(cudaMemcpy(values.data(), data(), bytes(), cudaMemcpyDeviceToHost), "copy");
    return values;
  }

 private:
  static constexpr size_t kGuard = 1024;
  static constexpr uint8_t kMark = 0xA5;
  size_t bytes() const { return count_ * sizeof(T); }

  size_t count_;
  uint8_t* base_ = nullptr;
};

}  // namespace perceiver::testing
