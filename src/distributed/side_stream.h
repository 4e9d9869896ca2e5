// A stream beside a context's own, for collectives.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/support/errors.h"
#include "perceiver/experimental/device_context.h"

namespace perceiver {

/// Of the greatest priority: what travels should not wait for a place.
class SideStream {
 public:
  explicit SideStream(DeviceContext& context) : context_(context) {
    (void)main();  // makes the device current
    int least = 0, greatest = 0;
    kernels::cuda::check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "priorities of streams");
    kernels::cuda::check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest), "stream");
    for (cudaEvent_t* event : {&before_, &after_})
      kernels::cuda::check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "event");
  }
  ~SideStream() {
    cudaStreamSynchronize(stream);
    cudaEventDestroy(before_);
    cudaEventDestroy(after_);
    cudaStreamDestroy(stream);
  }
  SideStream(const SideStream&) = delete;
  SideStream& operator=(const SideStream&) = delete;

  /// What follows on this stream runs after what was enqueued on the context's.
  void follow() {
    kernels::cuda::check(cudaEventRecord(before_, main()), "event");
    kernels::cuda::check(cudaStreamWaitEvent(stream, before_, 0), "event");
  }
  /// And the other way round.
  void lead() {
    kernels::cuda::check(cudaEventRecord(after_, stream), "event");
    kernels::cuda::check(cudaStreamWaitEvent(main(), after_, 0), "event");
  }

  cudaStream_t stream = nullptr;

 private:
  cudaStream_t main() const { return static_cast<cudaStream_t>(context_.launch().stream); }

  DeviceContext& context_;
  cudaEvent_t before_ = nullptr, after_ = nullptr;
};

}  // namespace perceiver
