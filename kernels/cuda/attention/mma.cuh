// Building blocks of the tensor-core attention kernels: swizzled tiles in shared memory, and the warp-wide
// instructions of compute capability 8.0 (ldmatrix, mma.sync, cp.async).
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace perceiver::kernels::cuda {

__device__ inline uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/// 16 bytes from global to shared memory; zeros where not `valid`.
__device__ inline void copy_async(uint32_t target, const void* source, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(valid ? 16 : 0)
               : "memory");
}

/// Likewise 4 or 8 bytes.
template <int kBytes>
__device__ inline void copy_async_small(uint32_t target, const void* source, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(target), "l"(source), "n"(kBytes),
               "r"(valid ? kBytes : 0)
               : "memory");
}

__device__ inline void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most kPending groups of copies are in flight.
template <int kPending>
__device__ inline void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ inline void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

__device__ inline void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address));
}

/// c [16, 8] += a [16, 16] · b [16, 8].
__device__ inline void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 2^x; 0 for -infinity.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Two bf16, `low` at the lower address.
__device__ inline uint32_t pack(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ inline float2 unpack(uint32_t packed) {
  return {__uint_as_float(packed << 16), __uint_as_float(packed & 0xFFFF0000u)};
}

/// A row-major tile of bf16 in shared memory, aligned to 128 bytes. The 16-byte chunks of a row are XORed
/// with the row number, so that the 8 rows that ldmatrix reads at one column lie in different banks: over 8
/// chunks where rows are multiples of 128 bytes, else over 4 by pairs of rows.
template <int kColumns>
struct SharedTile {
  static_assert(kColumns % 32 == 0);
  static constexpr int kRowBytes = kColumns * 2;
  static constexpr int kChunks = kColumns / 8;
  static constexpr int kSpan = kColumns % 64 == 0 ? 8 : 4;

  __device__ static uint32_t swizzle(uint32_t row) { return kSpan == 8 ? row % 8 : row / 2 % 4; }
  __device__ static uint32_t offset(uint32_t row, uint32_t chunk) {
    return row * kRowBytes + (chunk ^ swizzle(row)) * 16;
  }
};

/// How the four 8x8 matrices of one ldmatrix cover a 16x16 block of a tile: rows first or columns first.
/// `rows`: operand A as it lies, or B from its transpose (with the transposing load: [k, n] as it lies).
/// `columns`: operand B = [n, k] as it lies, or A from its transpose (transposing load: [k, m] as it lies).
enum class Cover { rows, columns };

/// This lane's addresses for ldmatrix over a tile of kColumns.
template <int kColumns, Cover kCover>
class LaneAddress {
  using Tile = SharedTile<kColumns>;
  static constexpr int kVariants = Tile::kSpan / 2;

 public:
  __device__ explicit LaneAddress(uint32_t tile) {
    const uint32_t lane = threadIdx.x % 32;
    const uint32_t row = kCover == Cover::rows ? lane % 16 : lane % 8 + lane / 16 * 8;
    const uint32_t chunk = kCover == Cover::rows ? lane / 16 : lane / 8 % 2;
#pragma unroll
    for (uint32_t v = 0; v < kVariants; ++v) address_[v] = tile + Tile::offset(row, 2 * v + chunk);
    first_chunk_ = chunk ^ Tile::swizzle(row);
  }
  /// Block of 16 rows from `row` (a multiple of 16) and 16 columns from 16 * step.
  __device__ uint32_t at(int row, int step) const {
    return address_[step % kVariants] +
           static_cast<uint32_t>(row * Tile::kRowBytes + step / kVariants * (kVariants * 32));
  }
  /// Likewise of row 0 with a step that is not a compile-time constant.
  __device__ uint32_t dynamic(int step) const {
    // A step changes chunks by XOR below the span, and by addition above it.
    return address_[0] + step / kVariants * (kVariants * 32) +
           ((first_chunk_ ^ static_cast<uint32_t>(2 * (step % kVariants))) - first_chunk_) * 16;
  }

 private:
  uint32_t address_[kVariants];
  uint32_t first_chunk_;  // of address_[0], swizzled
};

/// Starts copying kRows rows of a matrix into a tile; rows and chunks (of 8 columns) beyond the valid ones
/// become zero. All kThreads threads of the block call it. A pass takes a multiple of 8 rows, over which the
/// swizzle repeats, so a thread's addresses advance in constant steps.
template <int kRows, int kColumns, int kThreads>
__device__ inline void copy_tile(uint32_t tile, const __nv_bfloat16* source, int64_t stride, int valid_rows,
                                 int valid_chunks) {
  using Tile = SharedTile<kColumns>;
  constexpr int kFit = kThreads / Tile::kChunks / 8 * 8, kPassRows = kFit < kRows ? kFit : kRows;
  static_assert(kPassRows > 0 && kRows % kPassRows == 0);
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / Tile::kChunks, chunk = thread % Tile::kChunks;
  if (kPassRows * Tile::kChunks < kThreads && row >= kPassRows) return;
  const int rows_left = chunk < valid_chunks ? valid_rows - row : 0;
  const __nv_bfloat16* from = source + row * stride + chunk * 8;
  const uint32_t to = tile + Tile::offset(row, chunk);
#pragma unroll
  for (int pass = 0; pass < kRows / kPassRows; ++pass) {
    copy_async(to + pass * (kPassRows * Tile::kRowBytes), from, pass * kPassRows < rows_left);
    from += kPassRows * stride;
  }
}

}  // namespace perceiver::kernels::cuda
