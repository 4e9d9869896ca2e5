// cuDNN's fused attention behind the interface of kernels/attention.h. The library is loaded at run time:
// nothing else depends on it, and a build without its headers can do all else.
#pragma once

#include <memory>
#include <string>

#include "kernels/attention.h"

namespace perceiver::kernels::cuda {

/// Why this build or this machine cannot use cuDNN, or null where it can.
const char* cudnn_obstacle();

/// E.g. "9.19.0"; "none" where there is an obstacle.
std::string cudnn_version();

/// cuDNN's handle for one device and stream, and a plan for each shape of attention. The library is loaded
/// and a plan compiled when first asked for. Launch::cudnn points to one. Not thread-safe, like the stream.
class CudnnPlans {
 public:
  CudnnPlans();
  ~CudnnPlans();
  CudnnPlans(const CudnnPlans&) = delete;
  CudnnPlans& operator=(const CudnnPlans&) = delete;

  struct State;
  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

// AttentionKernel::cudnn. `first`, `limit` and `key_mask` are not read: Attention::mask says it all. They
// throw `user` where cuDNN has no engine for the shape on this GPU.
void attention_cudnn(const Launch& launch, const Attention& k);
/// Not bitwise repeatable: the engines that cuDNN proposes first sum dQ in no fixed order.
void attention_cudnn_backward(const Launch& launch, const AttentionBackward& a, void* scratch,
                              int64_t scratch_bytes);
/// Bytes of scratch, aligned to 256.
int64_t attention_cudnn_backward_bytes(const Launch& launch, const AttentionBackward& a);

}  // namespace perceiver::kernels::cuda
