// Flagged buffers: how the blocks of the fused decode step hand vectors to one another for up to 4 slots. As
// in NCCL's LL protocol, an 8-byte word holds 4 bytes of data and a 4-byte flag, here that of the phase that
// wrote it. Readers poll the words themselves, so that one trip to the L2 cache replaces fence, barrier and
// read. Data and flag are one relaxed 64-bit access each way; a 16-byte access is two of these, in no order.
//
// Flags rise by one per phase, over all steps, for kDecodeEpoch steps; then the words are cleared. A word has
// arrived if its flag is at least the one waited for: newer ones are seen only by threads that discard the
// data, those of blocks without a share in the phase.
//
// Nothing is overwritten before it is read, since every block waits for all of the latents whenever a phase's
// inputs are latents, and these depend on all that was read before:
// - Latents alternate between two buffers. Whoever writes one has read the other, to which every reader of
//   the first has contributed.
// - Hidden, attended, partials, queries, new keys and values: between two writes lie two phases that write
//   latents, and the latents of the first cannot be complete before the readers are done.
// Attention of an idle slot depends on nothing, and its results may be torn; they are never read.
//
// With 5 to 8 slots, and with 2 to 4 and weights of int8, only partials and attended are flagged. Between two
// writes of these lie barriers over the grid.
#pragma once

#include "kernels/cuda/decode/grid_barrier.cuh"

namespace perceiver::kernels::cuda {
#ifdef PERCEIVER_DECODE_SM90

__device__ inline uint64_t with_flag(uint32_t data, uint32_t flag) {
  return static_cast<uint64_t>(flag) << 32 | data;
}

__device__ inline void publish(uint64_t* to, uint32_t data, uint32_t flag) {
  asm volatile("st.relaxed.gpu.global.b64 [%0], %1;" ::"l"(to), "l"(with_flag(data, flag)) : "memory");
}
/// To two words, aligned to 16 bytes.
__device__ inline void publish(uint64_t* to, float x, float y, uint32_t flag) {
  asm volatile("st.relaxed.gpu.global.v2.b64 [%0], {%1, %2};" ::"l"(to),
               "l"(with_flag(__float_as_uint(x), flag)), "l"(with_flag(__float_as_uint(y), flag))
               : "memory");
}

/// Offset, in words, of the pair of latents that starts at an even row: within 32 rows the first pairs of
/// every 4 rows come first, then the second, so that a warp whose lanes read 4 rows each reads whole cache
/// lines.
__device__ inline int latent_word(int row) {
  return (row & ~31) + (row % 4 / 2) * 16 + row % 32 / 4 * 2;
}

/// Waits for kCount pairs of words and returns their data. place(i): where pair i is, aligned to 16 bytes;
/// found anew at each try, since kCount pointers may be more than there are registers for. flag(i): what it
/// has to have.
template <int kCount, typename Place, typename Flag>
__device__ __forceinline__ void receive_from(Place&& place, Flag&& flag, uint2 (&data)[kCount]) {
  bool arrived = false;
  while (!arrived) {
    uint64_t words[kCount][2];
#pragma unroll
    for (int i = 0; i < kCount; ++i)
      asm volatile("ld.relaxed.gpu.global.v2.b64 {%0, %1}, [%2];"
                   : "=l"(words[i][0]), "=l"(words[i][1])
                   : "l"(place(i))
                   : "memory");
    arrived = true;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      arrived = arrived && words[i][0] >> 32 >= flag(i) && words[i][1] >> 32 >= flag(i);
      data[i] = {static_cast<uint32_t>(words[i][0]), static_cast<uint32_t>(words[i][1])};
    }
  }
}

template <int kCount>
__device__ inline void receive(const uint64_t* const (&from)[kCount], const uint32_t (&flags)[kCount],
                               uint2 (&data)[kCount]) {
  receive_from([&](int i) { return from[i]; }, [&](int i) { return flags[i]; }, data);
}

template <int kCount>
__device__ inline void receive(const uint64_t* const (&from)[kCount], uint32_t flag, uint2 (&data)[kCount]) {
  uint32_t flags[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) flags[i] = flag;
  receive(from, flags, data);
}

/// 2 * kCount consecutive words.
template <int kCount>
__device__ inline void receive(const uint64_t* from, uint32_t flag, uint2 (&data)[kCount]) {
  const uint64_t* places[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) places[i] = from + 2 * i;
  receive(places, flag, data);
}

__device__ inline float2 floats(uint2 data) {
  return {__uint_as_float(data.x), __uint_as_float(data.y)};
}

/// Sets the first flag of this step, and whether the words of the previous epoch must be cleared first. The
/// count of finished blocks only grows, by the grid in every launch; a block reads it before adding itself.
__device__ inline void begin_step(const DecodeArguments& a, DecodeShared& shared) {
  unsigned long long finished;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(finished) : "l"(a.finished_blocks) : "memory");
  const unsigned long long step = finished / gridDim.x;
  shared.first_flag = static_cast<uint32_t>(step % kDecodeEpoch) * kFlagsPerStep + 1;
  shared.clears = step > 0 && step % kDecodeEpoch == 0;
}
/// Before the first step of an epoch, whose flags start over. By all consumers.
__device__ inline void clear_words(const DecodeArguments& a, GridBarrier& grid) {
  for (int i = static_cast<int>(blockIdx.x) * kConsumers + static_cast<int>(threadIdx.x); i < a.flagged.words;
       i += static_cast<int>(gridDim.x) * kConsumers)
    a.flagged.begin[i] = 0;
  grid.arrive();
  grid.wait();
}
__device__ inline void end_step(const DecodeArguments& a) {
  asm volatile("red.relaxed.gpu.global.add.u64 [%0], 1;" ::"l"(a.finished_blocks) : "memory");
}

#endif
}  // namespace perceiver::kernels::cuda
