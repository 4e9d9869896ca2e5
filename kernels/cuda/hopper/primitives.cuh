// The instructions of compute capability 9.0a that the Hopper kernels share: mbarriers, TMA loads, warpgroup
// matrix products (wgmma) of bf16 and 8-bit operands, and register reallocation (setmaxnreg).
//
// Tiles in shared memory are as TMA writes them with its 128-byte swizzle: rows of 64 bf16 (128 bytes) whose
// 16-byte chunks are XORed with the row number modulo 8; aligned to 1024 bytes. A matrix with more columns is
// several such tiles in sequence.
#pragma once

#include <cuda.h>
#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/attention/mma.cuh"

namespace perceiver::kernels::cuda::hopper {

inline constexpr int kTileColumns = 64;             // bf16 in a row of a tile
inline constexpr int kRowBytes = kTileColumns * 2;  // the swizzle width
inline constexpr int kWarpgroup = 128;              // threads

/// Offset of a 16-byte chunk (0..7) of a row within a tile.
__device__ inline uint32_t swizzled_offset(uint32_t row, uint32_t chunk) {
  return row * kRowBytes + (chunk ^ (row % 8)) * 16;
}

// --- mbarriers: 8 bytes of shared memory each, passed by address.

__device__ inline void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/// Makes initialised mbarriers visible to TMA.
__device__ inline void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ inline void mbarrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/// Lets the phase complete only after `bytes` more have been loaded. The thread that expects loads issues
/// them and arrives afterwards: racecheck takes what a thread writes after its arrival for unordered,
/// including loads that it issued.
__device__ inline void mbarrier_expect_tx(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

/// Arrivals that one warp counts for. One lane arrives for all, after __syncwarp; racecheck does not follow
/// that, so in a build for it (PERCEIVER_RACECHECK) every lane arrives.
#ifdef PERCEIVER_RACECHECK
inline constexpr uint32_t kWarpArrivals = 32;
#else
inline constexpr uint32_t kWarpArrivals = 1;
#endif

__device__ inline void mbarrier_arrive_warp(uint32_t barrier) {
  __syncwarp();
  if (threadIdx.x % 32 < kWarpArrivals) mbarrier_arrive(barrier);
}

/// Waits until the phase of this parity has completed.
__device__ inline void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "AGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra DONE;\n"
      "bra AGAIN;\n"
      "DONE:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

/// Whether the phase of this parity has completed.
__device__ inline bool mbarrier_test_wait(uint32_t barrier, uint32_t parity) {
  uint32_t passed;
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "selp.u32 %0, 1, 0, done;\n"
      "}\n"
      : "=r"(passed)
      : "r"(barrier), "r"(parity)
      : "memory");
  return passed != 0;
}

/// Position of a producer or consumer in a pipeline of stages (CUTLASS's PipelineState).
template <int kStages>
struct PipelineState {
  int stage = 0;
  uint32_t phase = 0;  // parity of the stage's mbarriers
  __device__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// --- TMA and bulk loads into shared memory.

/// A box of a matrix [batch, rows, columns]; elements outside the matrix become zero.
__device__ inline void tma_load(uint32_t target, const CUtensorMap* map, uint32_t barrier, int column,
                                int row, int example) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
      "[%2];" ::"r"(target),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(example)
      : "memory");
}

/// A box of one head of a matrix [batch, rows, heads, width].
__device__ inline void tma_load_head(uint32_t target, const CUtensorMap* map, uint32_t barrier, int column,
                                     int head, int row, int example) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4, %5, %6}], [%2];" ::"r"(target),
      "l"(map), "r"(barrier), "r"(column), "r"(head), "r"(row), "r"(example)
      : "memory");
}

/// With an L2 cache policy (cache_policy.cuh).
__device__ inline void tma_load(uint32_t target, const CUtensorMap* map, uint32_t barrier, int column,
                                int row, int example, uint64_t cache_policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], "
      "[%1, {%3, %4, %5}], [%2], %6;" ::"r"(target),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(example), "l"(cache_policy)
      : "memory");
}

/// `bytes` contiguous bytes; both addresses and `bytes` are multiples of 16.
__device__ inline void bulk_load(uint32_t target, const void* source, uint32_t barrier, uint32_t bytes) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
}

__device__ inline void bulk_load(uint32_t target, const void* source, uint32_t barrier, uint32_t bytes,
                                 uint64_t cache_policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], %4;" ::"r"(target),
      "l"(source), "r"(bytes), "r"(barrier), "l"(cache_policy)
      : "memory");
}

/// Writes a box to a matrix [batch, rows, columns]; what is outside of the matrix is dropped. The threads
/// that filled the box have called fence_proxy_async().
__device__ inline void tma_store(const CUtensorMap* map, uint32_t source, int column, int row, int example) {
  asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(map),
               "r"(source), "r"(column), "r"(row), "r"(example)
               : "memory");
}
__device__ inline void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
/// Waits until this thread's committed stores have read their boxes.
__device__ inline void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/// Orders this thread's ordinary accesses to shared memory before later ones by TMA (the async proxy).
__device__ inline void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- Register reallocation (setmaxnreg); called by all threads of a warpgroup.

template <int kRegisters>
__device__ inline void warpgroup_reg_alloc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void warpgroup_reg_dealloc() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Named barrier of the 128 threads of one warpgroup; `id` from 1 to 15.
__device__ inline void named_barrier_sync(int id) {
  asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory");
}

// --- wgmma: C [64, n] f32 += A [64, 16] · B [16, n], bf16, asynchronous. Warp w of the warpgroup holds rows
// 16 w to 16 w + 15 of C and of an A in registers, laid out as for mma.m16n8k16: c[4 j + e] is column
// 8 j + 2 (lane % 4) + e % 2 of row lane / 4 + 8 (e / 2).

/// Descriptor of a K-major operand: rows of A, or of Bᵀ, are rows of the tile.
__device__ inline uint64_t k_major_descriptor(uint32_t address) {
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}
/// Byte offset of columns 16 * step on within the 128-byte rows of a tile.
__device__ constexpr uint32_t k_step_offset(int step) {
  return static_cast<uint32_t>(step) * 32;
}

/// Descriptor of an MN-major operand: B is the tile, its rows are k. `tile_bytes` is the distance between the
/// tiles of 64 columns where n is more.
__device__ inline uint64_t mn_major_descriptor(uint32_t address, uint32_t tile_bytes) {
  return static_cast<uint64_t>((address & 0x3FFFF) >> 4) | static_cast<uint64_t>(tile_bytes >> 4) << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

/// Before the first wgmma of a group: orders register accesses before those of wgmma.
__device__ inline void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most kPending committed groups are in flight.
template <int kPending>
__device__ inline void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Keeps the compiler from moving uses of registers across this point (CUTLASS's warpgroup_fence_operand).
template <int kCount>
__device__ inline void wgmma_fence_operand(float (&c)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(c[i])::"memory");
}
template <int kCount>
__device__ inline void wgmma_fence_operand(uint32_t (&a)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

/// Zeros, before any wgmma is in flight: defined later, they would make the compiler wait for each wgmma.
template <int kCount>
__device__ inline void clear_accumulator(float (&c)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) c[i] = 0;
  wgmma_fence_operand(c);
}

// Registers of the accumulator from c[i] on, as operands of mode "+f" (read and written) or "=f" (written).
#define PERCEIVER_C8(mode, c, i)                                                              \
  mode(c[i]), mode(c[i + 1]), mode(c[i + 2]), mode(c[i + 3]), mode(c[i + 4]), mode(c[i + 5]), \
      mode(c[i + 6]), mode(c[i + 7])
#define PERCEIVER_C32(mode, c, i)                                                        \
  PERCEIVER_C8(mode, c, i), PERCEIVER_C8(mode, c, i + 8), PERCEIVER_C8(mode, c, i + 16), \
      PERCEIVER_C8(mode, c, i + 24)
#define PERCEIVER_C16(mode, c, i) PERCEIVER_C8(mode, c, i), PERCEIVER_C8(mode, c, i + 8)
#define PERCEIVER_C48(mode, c) PERCEIVER_C32(mode, c, 0), PERCEIVER_C16(mode, c, 32)
#define PERCEIVER_C64(mode, c) PERCEIVER_C32(mode, c, 0), PERCEIVER_C32(mode, c, 32)
#define PERCEIVER_C128(mode, c) PERCEIVER_C64(mode, c), PERCEIVER_C32(mode, c, 64), PERCEIVER_C32(mode, c, 96)
#define PERCEIVER_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define PERCEIVER_32 \
  PERCEIVER_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PERCEIVER_48 \
  PERCEIVER_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define PERCEIVER_64 \
  PERCEIVER_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PERCEIVER_128                                                                          \
  PERCEIVER_64                                                                                 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, "    \
  "%81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, " \
  "%99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, "  \
  "%114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
// `add` is the text of a constant: 0 overwrites C.
#define PERCEIVER_WGMMA_OF(shape_and_types, c, operands, add, tail) \
  "{\n.reg .pred add;\nsetp.ne.b32 add, " add                       \
  ", 0;\n"                                                          \
  "wgmma.mma_async.sync.aligned." shape_and_types " {" c "}, " operands ", add, 1, 1" tail ";\n}\n"
#define PERCEIVER_WGMMA(shape, c, operands, add, tail) \
  PERCEIVER_WGMMA_OF(shape ".f32.bf16.bf16", c, operands, add, ", " tail)
// 8-bit operands have to be K-major.
#define PERCEIVER_WGMMA_FP8(types, c, operands, add) \
  PERCEIVER_WGMMA_OF("m64n256k32.f32." types, c, operands, add, "")

/// A and B from shared memory, both K-major. Without kAdd C is overwritten.
template <bool kAdd>
__device__ inline void wgmma(float (&c)[32], uint64_t a, uint64_t b) {
  if constexpr (kAdd) {
    asm volatile(PERCEIVER_WGMMA("m64n64k16", PERCEIVER_32, "%32, %33", "1", "0, 0")
                 : PERCEIVER_C32("+f", c, 0)
                 : "l"(a), "l"(b));
  } else {
    asm volatile(PERCEIVER_WGMMA("m64n64k16", PERCEIVER_32, "%32, %33", "0", "0, 0")
                 : PERCEIVER_C32("=f", c, 0)
                 : "l"(a), "l"(b));
  }
}
template <bool kAdd>
__device__ inline void wgmma(float (&c)[64], uint64_t a, uint64_t b) {
  if constexpr (kAdd) {
    asm volatile(PERCEIVER_WGMMA("m64n128k16", PERCEIVER_64, "%64, %65", "1", "0, 0")
                 : PERCEIVER_C64("+f", c)
                 : "l"(a), "l"(b));
  } else {
    asm volatile(PERCEIVER_WGMMA("m64n128k16", PERCEIVER_64, "%64, %65", "0", "0, 0")
                 : PERCEIVER_C64("=f", c)
                 : "l"(a), "l"(b));
  }
}

/// The same with n = 256, and B MN-major if kTransposed.
template <bool kAdd, bool kTransposed>
__device__ inline void wgmma(float (&c)[128], uint64_t a, uint64_t b) {
  if constexpr (kAdd) {
    asm volatile(PERCEIVER_WGMMA("m64n256k16", PERCEIVER_128, "%128, %129", "1", "0, %130")
                 : PERCEIVER_C128("+f", c)
                 : "l"(a), "l"(b), "n"(kTransposed));
  } else {
    asm volatile(PERCEIVER_WGMMA("m64n256k16", PERCEIVER_128, "%128, %129", "0", "0, %130")
                 : PERCEIVER_C128("=f", c)
                 : "l"(a), "l"(b), "n"(kTransposed));
  }
}

/// C [64, 256] = A [64, 32] · B [32, 256] with 32 columns of 8 bits instead: A of e5m2, or of e4m3, B of
/// e4m3. k_major_descriptor and k_step_offset hold for rows of 128 such columns. Products are summed with
/// about 14 bits.
template <bool kAdd, bool kE5m2>
__device__ inline void wgmma_fp8(float (&c)[128], uint64_t a, uint64_t b) {
  if constexpr (kAdd && kE5m2) {
    asm volatile(PERCEIVER_WGMMA_FP8("e5m2.e4m3", PERCEIVER_128, "%128, %129", "1")
                 : PERCEIVER_C128("+f", c)
                 : "l"(a), "l"(b));
  } else if constexpr (kAdd) {
    asm volatile(PERCEIVER_WGMMA_FP8("e4m3.e4m3", PERCEIVER_128, "%128, %129", "1")
                 : PERCEIVER_C128("+f", c)
                 : "l"(a), "l"(b));
  } else if constexpr (kE5m2) {
    asm volatile(PERCEIVER_WGMMA_FP8("e5m2.e4m3", PERCEIVER_128, "%128, %129", "0")
                 : PERCEIVER_C128("=f", c)
                 : "l"(a), "l"(b));
  } else {
    asm volatile(PERCEIVER_WGMMA_FP8("e4m3.e4m3", PERCEIVER_128, "%128, %129", "0")
                 : PERCEIVER_C128("=f", c)
                 : "l"(a), "l"(b));
  }
}

/// A from registers, B from shared memory, K-major.
template <bool kAdd>
__device__ inline void wgmma(float (&c)[32], const uint32_t* a, uint64_t b) {
  if constexpr (kAdd) {
    asm volatile(PERCEIVER_WGMMA("m64n64k16", PERCEIVER_32, "{%32, %33, %34, %35}, %36", "1", "0")
                 : PERCEIVER_C32("+f", c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  } else {
    asm volatile(PERCEIVER_WGMMA("m64n64k16", PERCEIVER_32, "{%32, %33, %34, %35}, %36", "0", "0")
                 : PERCEIVER_C32("=f", c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
  }
}

/// C += A · B with A from registers, B from shared memory, MN-major.
__device__ inline void wgmma_mn_major(float (&c)[16], const uint32_t* a, uint64_t b) {
  asm volatile(PERCEIVER_WGMMA("m64n32k16", PERCEIVER_16, "{%16, %17, %18, %19}, %20", "1", "1")
               : PERCEIVER_C16("+f", c, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void wgmma_mn_major(float (&c)[32], const uint32_t* a, uint64_t b) {
  asm volatile(PERCEIVER_WGMMA("m64n64k16", PERCEIVER_32, "{%32, %33, %34, %35}, %36", "1", "1")
               : PERCEIVER_C32("+f", c, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void wgmma_mn_major(float (&c)[48], const uint32_t* a, uint64_t b) {
  asm volatile(PERCEIVER_WGMMA("m64n96k16", PERCEIVER_48, "{%48, %49, %50, %51}, %52", "1", "1")
               : PERCEIVER_C48("+f", c)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void wgmma_mn_major(float (&c)[64], const uint32_t* a, uint64_t b) {
  asm volatile(PERCEIVER_WGMMA("m64n128k16", PERCEIVER_64, "{%64, %65, %66, %67}, %68", "1", "1")
               : PERCEIVER_C64("+f", c)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ inline void wgmma_mn_major(float (&c)[128], const uint32_t* a, uint64_t b) {
  asm volatile(PERCEIVER_WGMMA("m64n256k16", PERCEIVER_128, "{%128, %129, %130, %131}, %132", "1", "1")
               : PERCEIVER_C128("+f", c)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef PERCEIVER_C8
#undef PERCEIVER_C16
#undef PERCEIVER_C32
#undef PERCEIVER_C48
#undef PERCEIVER_C64
#undef PERCEIVER_C128
#undef PERCEIVER_16
#undef PERCEIVER_32
#undef PERCEIVER_48
#undef PERCEIVER_64
#undef PERCEIVER_128
#undef PERCEIVER_WGMMA
#undef PERCEIVER_WGMMA_FP8
#undef PERCEIVER_WGMMA_OF

/// Calls body.template operator()<kAdd>(step) for steps 0 to kSteps - 1, without kAdd at the first.
template <int kSteps, typename Body>
__device__ inline void for_each_k_step(Body&& body) {
  body.template operator()<false>(0);
#pragma unroll
  for (int step = 1; step < kSteps; ++step) body.template operator()<true>(step);
}

/// Loads the first 4 * kCount columns of 16 rows of a tile of 64 columns, from `row` on, as the calling
/// warp's part of operand A.
template <int kCount>
__device__ inline void load_a_fragment(uint32_t (&a)[kCount], uint32_t tile, int row) {
  const LaneAddress<kTileColumns, Cover::rows> address(tile + static_cast<uint32_t>(row) * kRowBytes);
#pragma unroll
  for (int step = 0; step < kCount / 4; ++step) {
    uint32_t four[4];
    load_matrices(four, address.at(0, step));
#pragma unroll
    for (int i = 0; i < 4; ++i) a[step * 4 + i] = four[i];
  }
}

/// An accumulator as operand A of the next product, rounded to bf16.
template <int kCount>
__device__ inline void pack_a_fragment(const float (&c)[kCount], uint32_t (&a)[kCount / 2]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) a[i] = pack(c[2 * i], c[2 * i + 1]);
}

/// Rounds a warp's 16 rows of C * factor [r] (r = 0, 1: rows lane / 4 and lane / 4 + 8) to bf16, into
/// swizzled tiles in shared memory, from row `row` on.
template <int D>
__device__ inline void stage_rows(const float (&c)[D / 2], float factor0, float factor1, unsigned char* tiles,
                                  uint32_t tile_bytes, int row) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int n = 0; n < D / 8; ++n)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float factor = r == 0 ? factor0 : factor1;
      const uint32_t place = swizzled_offset(static_cast<uint32_t>(row + lane / 4 + r * 8), n % 8);
      *reinterpret_cast<uint32_t*>(tiles + n / 8 * tile_bytes + place + lane % 4 * 4) =
          pack(c[n * 4 + r * 2] * factor, c[n * 4 + r * 2 + 1] * factor);
    }
  __syncwarp();
}

/// Writes a warp's 16 rows of C * factor to rows of a bf16 matrix in global memory, 16 bytes at a time,
/// staged through the warp's own rows of tiles in shared memory (stage_rows). `target` is its first row in
/// the matrix, where `rows_left` rows remain. Of the columns only the first `width`, a multiple of 8, are
/// written.
template <int D>
__device__ inline void store_rows(const float (&c)[D / 2], float factor0, float factor1, unsigned char* tiles,
                                  uint32_t tile_bytes, int row, __nv_bfloat16* target, int64_t stride,
                                  int rows_left, int width) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  stage_rows<D>(c, factor0, factor1, tiles, tile_bytes, row);
#pragma unroll
  for (int tile = 0; tile * kTileColumns < D; ++tile) {
    const int chunks = tile * kTileColumns + kTileColumns <= D ? 8 : D % kTileColumns / 8;  // of 16 bytes
#pragma unroll
    for (int pass = 0; pass < chunks / 2; ++pass) {
      const int r = pass * (32 / chunks) + lane / chunks, chunk = lane % chunks;
      if (r < rows_left && tile * kTileColumns + chunk * 8 < width)
        *reinterpret_cast<uint4*>(target + r * stride + tile * kTileColumns + chunk * 8) =
            *reinterpret_cast<const uint4*>(
                tiles + static_cast<uint32_t>(tile) * tile_bytes +
                swizzled_offset(static_cast<uint32_t>(row + r), static_cast<uint32_t>(chunk)));
    }
  }
}

/// Transposes a matrix of 4 x 4 words whose columns four neighbouring lanes hold: lane q gets x[q] of each.
__device__ inline void transpose_over_quad(uint32_t (&x)[4]) {
#pragma unroll
  for (int distance = 1; distance <= 2; distance *= 2) {
    const bool upper = threadIdx.x & static_cast<unsigned>(distance);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      uint32_t& low = x[distance == 1 ? 2 * i : i];
      uint32_t& high = x[distance == 1 ? 2 * i + 1 : i + 2];
      const uint32_t other = __shfl_xor_sync(0xFFFFFFFFu, upper ? low : high, distance);
      if (upper) {
        low = other;
      } else {
        high = other;
      }
    }
  }
}

/// store_rows() without shared memory: the lanes of a row exchange words until each has 16 bytes.
template <int D>
__device__ inline void exchange_and_store_rows(const float (&c)[D / 2], float factor0, float factor1,
                                               __nv_bfloat16* target, int64_t stride, int rows_left,
                                               int width) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float factor = r == 0 ? factor0 : factor1;
    const int row = lane / 4 + r * 8;
#pragma unroll
    for (int n = 0; n < D / 8; n += 4) {
      uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        words[i] = pack(c[(n + i) * 4 + r * 2] * factor, c[(n + i) * 4 + r * 2 + 1] * factor);
      transpose_over_quad(words);
      const int column = (n + lane % 4) * 8;
      if (row < rows_left && column < width)
        *reinterpret_cast<uint4*>(target + row * stride + column) =
            make_uint4(words[0], words[1], words[2], words[3]);
    }
  }
}

}  // namespace perceiver::kernels::cuda::hopper
