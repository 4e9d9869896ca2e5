// cuDNN's fused attention, a rival to measure our own against. The library is looked for at run time: nothing
// depends on it, and a build without its headers can do all else.
#pragma once

#include <memory>

#include "kernels/attention.h"

namespace perceiver::kernels::cuda {

/// Attention of one shape as cuDNN computes it (in bf16, by engines that its heuristics propose first): query
/// row i of M sees all N keys, or where `causal` the first N - M + i + 1. Not bitwise repeatable: dQ is
/// summed in any order, as is usual with this library.
class CudnnAttention {
 public:
  /// Whether this build and this machine have cuDNN.
  static bool installed();

  /// For sizes, strides and the stream as in `shape`; pointers are not read. Throws `user` where this build
  /// or this machine has no cuDNN, and where cuDNN has no engine for the shape.
  CudnnAttention(const Launch& launch, const Attention& shape, bool causal);
  ~CudnnAttention();
  CudnnAttention(const CudnnAttention&) = delete;
  CudnnAttention& operator=(const CudnnAttention&) = delete;

  /// E.g. "9.19.0".
  const std::string& version() const;
  /// Bytes that `scratch` below must hold, aligned to 256.
  int64_t scratch_bytes() const;
  /// Enqueues attention of the shape given; first, limit and key_mask are not read.
  void forward(const Attention& k, void* scratch) const;
  void backward(const AttentionBackward& a, void* scratch) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace perceiver::kernels::cuda
