// Stable radix sort of row numbers by id, in passes of at most 10 bits (one pass for small tables, two up to
// 2^20 rows) of three launches each: digits are counted per tile of rows; a warp per digit scans its counts
// over the tiles; each tile ranks its rows and scatters them. Ranks come from ballots within a warp and
// per-warp counters, without atomics, so that equal ids keep their order and one id takes as long as many. A
// warp ranks 32 rows after another, each step waiting for the last, so tiles are as small as possible while
// their number, over which counts are scanned, stays moderate.
#include "kernels/cuda/embedding/row_sort.cuh"

#include <algorithm>
#include <bit>

#include "kernels/cuda/support/dependent_launch.cuh"
#include "kernels/cuda/support/workspace.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kSortWarps = 8;
constexpr int kSortThreads = 32 * kSortWarps;
constexpr int kMaxBits = 10;
constexpr int64_t kManyTiles = 512;
constexpr int kScanned = 8;  // counts per lane, in flight together

struct SortPass {
  int64_t rows;
  const int32_t* ids;
  int64_t id_stride;
  const int32_t* from;  // row numbers in the order of the previous pass; null: 0, 1, 2 …
  int32_t* to;
  int32_t* counts;  // [digits, tiles]; after the scan, rows with this digit before the tile
  int32_t* totals;  // [digits]
  int64_t tiles;
  int shift, digits;
  int32_t* present;  // [table_rows], nonzero where an id occurs; null: not wanted
  int64_t table_rows;
  bool only_pass;  // digits are ids

  __device__ int32_t row(int64_t i) const { return from == nullptr ? static_cast<int32_t>(i) : from[i]; }
  __device__ int32_t id(int32_t row) const { return ids[row * id_stride]; }
  __device__ int digit(int32_t id) const { return (id >> shift) & (digits - 1); }
};

/// The lanes of the warp with the same digit as this one, by a ballot per bit.
__device__ inline unsigned same_digit(int digit, int digits) {
  unsigned same = 0xffffffffu;
  for (int bit = 1; bit < digits; bit *= 2) {
    const unsigned set = __ballot_sync(0xffffffffu, (digit & bit) != 0);
    same &= (digit & bit) != 0 ? set : ~set;
  }
  return same;
}

/// A warp's part of the block's tile: 32 * kSteps consecutive rows; entry i of a lane is row 32 * i + lane.
template <int kSteps>
struct WarpRows {
  int32_t row[kSteps];
  int32_t digit[kSteps];
  int32_t count;  // rows that exist

  /// All loads are issued before the first is used.
  __device__ explicit WarpRows(const SortPass& pass) {
    const int64_t begin = (static_cast<int64_t>(blockIdx.x) * kSortWarps + threadIdx.x / 32) * (32 * kSteps);
    count = static_cast<int32_t>(max(int64_t{0}, min(int64_t{32} * kSteps, pass.rows - begin)));
#pragma unroll
    for (int i = 0; i < kSteps; ++i) row[i] = exists(i) ? pass.row(begin + place(i)) : 0;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) digit[i] = exists(i) ? pass.id(row[i]) : 0;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) digit[i] = pass.digit(digit[i]);
  }
  __device__ static int place(int i) {
    return 32 * i + static_cast<int>(threadIdx.x) % 32;
  }
  __device__ bool exists(int i) const {
    return place(i) < count;
  }

  __device__ void mark(const SortPass& pass) const {
#pragma unroll
    for (int i = 0; i < kSteps; ++i)
      if (exists(i)) pass.present[pass.id(row[i])] = 1;
  }

  /// The lanes whose row i exists and has this lane's digit.
  __device__ unsigned peers(int i, int digits) const {
    return same_digit(digit[i], digits) & __ballot_sync(0xffffffffu, exists(i));
  }
};

/// counter [warps][digits] of the block's tile.
template <int kSteps>
__device__ inline void count_tile(const SortPass& pass, const WarpRows<kSteps>& rows, int32_t* counter) {
  for (int i = static_cast<int>(threadIdx.x); i < kSortWarps * pass.digits; i += kSortThreads) counter[i] = 0;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int32_t* own = counter + threadIdx.x / 32 * pass.digits;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const unsigned peers = rows.peers(i, pass.digits);
    if (rows.exists(i) && lane == __ffs(static_cast<int>(peers)) - 1) own[rows.digit[i]] += __popc(peers);
    __syncwarp();
  }
  __syncthreads();
}

template <int kSteps>
__global__ void __launch_bounds__(kSortThreads) count_kernel(SortPass pass) {
  extern __shared__ int32_t counter[];
  let_next_kernel_start();
  if (pass.from != nullptr) wait_for_earlier_kernels();
  const WarpRows<kSteps> rows(pass);
  if (pass.present != nullptr && !pass.only_pass) rows.mark(pass);
  count_tile(pass, rows, counter);
  for (int digit = static_cast<int>(threadIdx.x); digit < pass.digits; digit += kSortThreads) {
    int32_t sum = 0;
    for (int warp = 0; warp < kSortWarps; ++warp) sum += counter[warp * pass.digits + digit];
    pass.counts[digit * pass.tiles + blockIdx.x] = sum;
  }
}

__device__ inline int32_t warp_inclusive_scan(int32_t x) {
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int32_t before = __shfl_up_sync(0xffffffffu, x, static_cast<unsigned>(offset));
    if (static_cast<int>(threadIdx.x) % 32 >= offset) x += before;
  }
  return x;
}

/// A warp per digit: an exclusive scan of its counts over the tiles. With a single pass, the totals tell
/// which ids occur.
__global__ void __launch_bounds__(kSortThreads) scan_kernel(SortPass pass) {
  let_next_kernel_start();
  wait_for_earlier_kernels();
  const int digit = static_cast<int>(blockIdx.x) * kSortWarps + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (digit >= pass.digits) return;
  int32_t* counts = pass.counts + digit * pass.tiles;
  int32_t before = 0;
  for (int64_t base = lane; base - lane < pass.tiles; base += 32 * kScanned) {
    int32_t own[kScanned];
#pragma unroll
    for (int i = 0; i < kScanned; ++i) own[i] = base + 32 * i < pass.tiles ? counts[base + 32 * i] : 0;
#pragma unroll
    for (int i = 0; i < kScanned; ++i) {
      const int32_t inclusive = warp_inclusive_scan(own[i]);
      if (base + 32 * i < pass.tiles) counts[base + 32 * i] = before + inclusive - own[i];
      before += __shfl_sync(0xffffffffu, inclusive, 31);
    }
  }
  if (lane != 0) return;
  pass.totals[digit] = before;
  if (pass.only_pass && pass.present != nullptr && digit < pass.table_rows) pass.present[digit] = before;
}

/// start[digit] = number of rows with a smaller digit. Every block scans the totals itself, which is cheaper
/// than another launch; a thread has consecutive digits.
__device__ inline void scan_totals(const SortPass& pass, int32_t* start) {
  constexpr int kOwn = (1 << kMaxBits) / kSortThreads;
  __shared__ int32_t warp_sums[kSortWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int first = static_cast<int>(threadIdx.x) * kOwn;
  int32_t own[kOwn], sum = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) own[i] = first + i < pass.digits ? pass.totals[first + i] : 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) sum += own[i];
  const int32_t inclusive = warp_inclusive_scan(sum);
  if (lane == 31) warp_sums[warp] = inclusive;
  __syncthreads();
  int32_t before = inclusive - sum;
#pragma unroll
  for (int w = 0; w < kSortWarps; ++w)
    if (w < warp) before += warp_sums[w];
#pragma unroll
  for (int i = 0; i < kOwn; ++i) {
    if (first + i < pass.digits) start[first + i] = before;
    before += own[i];
  }
  __syncthreads();
}

template <int kSteps>
__global__ void __launch_bounds__(kSortThreads) scatter_kernel(SortPass pass) {
  extern __shared__ int32_t counter[];  // [warps][digits], then [digits]
  int32_t* start = counter + kSortWarps * pass.digits;
  let_next_kernel_start();
  // The ids were complete before the first pass began.
  if (pass.from != nullptr) wait_for_earlier_kernels();
  const WarpRows<kSteps> rows(pass);
  count_tile(pass, rows, counter);
  if (pass.from == nullptr) wait_for_earlier_kernels();
  scan_totals(pass, start);
  // Turns counts into the position of the warp's first row with the digit.
  for (int digit = static_cast<int>(threadIdx.x); digit < pass.digits; digit += kSortThreads) {
    int32_t place = start[digit] + pass.counts[digit * pass.tiles + blockIdx.x];
    for (int warp = 0; warp < kSortWarps; ++warp) {
      const int32_t count = counter[warp * pass.digits + digit];
      counter[warp * pass.digits + digit] = place;
      place += count;
    }
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int32_t* place = counter + threadIdx.x / 32 * pass.digits;
#pragma unroll
  for (int i = 0; i < kSteps; ++i) {
    const unsigned peers = rows.peers(i, pass.digits);
    const int rank = __popc(peers & ((1u << lane) - 1));
    const int32_t first = rows.exists(i) ? place[rows.digit[i]] : 0;
    __syncwarp();
    if (rows.exists(i)) {
      pass.to[first + rank] = rows.row[i];
      if (rank == 0) place[rows.digit[i]] = first + __popc(peers);
    }
    __syncwarp();
  }
}

template <int kSteps>
void sort_pass(const Launch& launch, const SortPass& pass) {
  const size_t counter = sizeof(int32_t) * kSortWarps * static_cast<size_t>(pass.digits);
  const size_t start = sizeof(int32_t) * static_cast<size_t>(pass.digits);
  const unsigned tiles = static_cast<unsigned>(pass.tiles);
  const unsigned digit_blocks = static_cast<unsigned>(ceil_div(pass.digits, kSortWarps));
  if (pass.from == nullptr) {
    count_kernel<kSteps><<<tiles, kSortThreads, counter, stream_of(launch)>>>(pass);
  } else {
    launch_dependent<count_kernel<kSteps>>(launch, "sort by id", tiles, kSortThreads, counter, pass);
  }
  launch_dependent<scan_kernel>(launch, "sort by id", digit_blocks, kSortThreads, 0, pass);
  launch_dependent<scatter_kernel<kSteps>>(launch, "sort by id", tiles, kSortThreads, counter + start, pass);
  check_launch("sort by id");
}

template <int kSteps>
void sort(const Launch& launch, const RowIds& k, int32_t* order, int32_t* present) {
  const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<uint64_t>(k.table_rows - 1))));
  const int passes = static_cast<int>(ceil_div(bits, kMaxBits));
  const int bits_per_pass = static_cast<int>(ceil_div(bits, passes));
  Workspace workspace(launch);
  SortPass pass{};
  pass.rows = k.rows, pass.ids = k.ids, pass.id_stride = k.id_stride, pass.table_rows = k.table_rows;
  pass.tiles = ceil_div(k.rows, kSortThreads * kSteps), pass.digits = 1 << bits_per_pass;
  pass.totals = workspace.take<int32_t>(pass.digits);
  pass.counts = workspace.take<int32_t>(pass.digits * pass.tiles);
  pass.only_pass = passes == 1;
  int32_t* other = passes > 1 ? workspace.take<int32_t>(k.rows) : nullptr;
  if (present != nullptr && !pass.only_pass)
    check(cudaMemsetAsync(present, 0, static_cast<size_t>(k.table_rows) * sizeof(int32_t), stream_of(launch)),
          "sort by id");
  for (int i = 0; i < passes; ++i) {
    pass.shift = i * bits_per_pass;
    pass.to = (passes - 1 - i) % 2 == 0 ? order : other;
    pass.present = i == 0 ? present : nullptr;
    sort_pass<kSteps>(launch, pass);
    pass.from = pass.to;
  }
}

}  // namespace

void sort_rows(const Launch& launch, const RowIds& ids, int32_t* order, int32_t* present) {
  if (ids.rows <= kManyTiles * kSortThreads * 2) {
    sort<2>(launch, ids, order, present);
  } else if (ids.rows <= kManyTiles * kSortThreads * 4) {
    sort<4>(launch, ids, order, present);
  } else {
    sort<16>(launch, ids, order, present);
  }
}

}  // namespace perceiver::kernels::cuda
