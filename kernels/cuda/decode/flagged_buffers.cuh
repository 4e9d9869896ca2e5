// How the blocks of the fused decode step hand vectors to one another for one slot: 8-byte words of 4 bytes
// of data and the 4-byte tag of the phase that wrote them. Readers poll the words themselves, so that one
// trip to the second-level cache takes the place of fence, barrier and read. Data and tag are one relaxed
// 64-bit access each way; accesses of 16 bytes are two of these, in no order.
//
// Tags rise by one a phase, over all steps, until there are kTagsPerEpoch; then the words are cleared. A word
// is fresh if its tag is at least the one waited for: newer ones are met only by threads that discard the
// data, those of blocks without a share in the phase.
//
// Nothing is overwritten before it is read, since every block waits for all of the latents whenever the
// phase's inputs are latents, and these depend on all that was read before:
// - Latents alternate between two buffers. Who writes one has read the other, to which every reader of the
//   one has contributed.
// - Hidden, attended, partial results, queries, new keys and values: from one writing to the next lie two
//   phases that write latents, and those of the first cannot be complete before the readers are done.
// Without an active slot attention depends on nothing, and results may be torn; nobody reads them.
#pragma once

#include "kernels/cuda/decode/parts.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

__device__ inline uint64_t tagged(uint32_t data, uint32_t tag) {
  return static_cast<uint64_t>(tag) << 32 | data;
}

__device__ inline void publish(uint64_t* to, uint32_t data, uint32_t tag) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(tagged(data, tag)) : "memory");
}
/// To two words, aligned to 16 bytes.
__device__ inline void publish(uint64_t* to, float x, float y, uint32_t tag) {
  asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(to), "l"(tagged(__float_as_uint(x), tag)),
               "l"(tagged(__float_as_uint(y), tag))
               : "memory");
}

/// Where the pair of latents that begins with an even row lies, in words: within 32 rows first the first
/// pairs of every 4 rows, then the second, so that a warp whose lanes read 4 rows each reads whole lines at a
/// time.
__device__ inline int latent_word(int row) {
  return (row & ~31) + (row % 4 / 2) * 16 + row % 32 / 4 * 2;
}

/// Waits for kCount pairs of words, each pair aligned to 16 bytes and with a tag of its own, and returns
/// their data.
template <int kCount>
__device__ inline void receive(const uint64_t* const (&from)[kCount], const uint32_t (&tags)[kCount],
                               uint2 (&data)[kCount]) {
  bool fresh = false;
  while (!fresh) {
    uint64_t words[kCount][2];
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
                   : "=l"(words[i][0]), "=l"(words[i][1])
                   : "l"(from[i])
                   : "memory");
    fresh = true;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      fresh = fresh && words[i][0] >> 32 >= tags[i] && words[i][1] >> 32 >= tags[i];
      data[i] = {static_cast<uint32_t>(words[i][0]), static_cast<uint32_t>(words[i][1])};
    }
  }
}

template <int kCount>
__device__ inline void receive(const uint64_t* const (&from)[kCount], uint32_t tag, uint2 (&data)[kCount]) {
  uint32_t tags[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) tags[i] = tag;
  receive(from, tags, data);
}

/// 2 * kCount neighbouring words.
template <int kCount>
__device__ inline void receive(const uint64_t* from, uint32_t tag, uint2 (&data)[kCount]) {
  const uint64_t* places[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) places[i] = from + 2 * i;
  receive(places, tag, data);
}

__device__ inline float2 floats(uint2 data) {
  return {__uint_as_float(data.x), __uint_as_float(data.y)};
}

/// The first tag of this step, and whether the words of the epoch before must be cleared first. The count of
/// ends only ever grows, by the grid in every launch; a block reads it before it adds its own.
__device__ inline void begin_step(const DecodeArguments& a, DecodeShared& shared) {
  unsigned long long ends;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(ends) : "l"(a.ends) : "memory");
  const unsigned long long step = ends / gridDim.x;
  shared.first_tag = static_cast<uint32_t>(step % kDecodeEpoch) * kTagsPerStep + 1;
  shared.clears = step > 0 && step % kDecodeEpoch == 0;
}
__device__ inline void end_step(const DecodeArguments& a) {
  asm volatile("red.relaxed.gpu.global.add.u64 [%0], 1;" ::"l"(a.ends) : "memory");
}

#endif
}  // namespace perceiver::kernels::cuda
