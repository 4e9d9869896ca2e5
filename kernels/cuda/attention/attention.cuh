// The implementations of attention that attention.cu chooses from.
#pragma once

#include "kernels/attention.h"
#include "kernels/cuda/support/common.cuh"
#include "kernels/fp8.h"

namespace perceiver::kernels::cuda {

/// The workspace that every launch has.
inline constexpr int64_t kSmallestWorkspace = int64_t{64} << 20;

/// Memory for partial results: the caller's scratch where there is one, else the launch's workspace.
struct Scratch {
  void* data;
  int64_t bytes;
};

void attention_reference(const Launch& launch, const Attention& k);
void attention_reference_backward(const Launch& launch, const AttentionBackward& a, Scratch scratch);
int64_t attention_reference_backward_bytes(const AttentionBackward& a);

void attention_portable(const Launch& launch, const Attention& k);
void attention_portable_backward(const Launch& launch, const AttentionBackward& a, Scratch scratch);
int attention_portable_backward_shared_bytes(const AttentionBackward& a);
int64_t attention_portable_backward_bytes(const AttentionBackward& a, int sm_count);

// Compute capability 9.0, bf16, heads of up to 256 channels, a multiple of 8.
void attention_hopper(const Launch& launch, const Attention& k);
void attention_hopper_backward(const Launch& launch, const AttentionBackward& a, Scratch scratch);
// The same for heads of 64 channels, and multiples of 16 rows.
void attention_hopper_quantize(const Launch& launch, const Fp8Attention& k);
void attention_hopper_backward_quantize(const Launch& launch, const Fp8AttentionBackward& a, Scratch scratch);
int64_t attention_hopper_backward_quantize_bytes(const AttentionBackward& a);
int64_t attention_hopper_backward_bytes(const AttentionBackward& a);

}  // namespace perceiver::kernels::cuda
