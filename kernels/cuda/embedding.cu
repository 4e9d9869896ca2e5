// Sums of table rows, and their backward.
//
// Forward: a thread owns one 16-byte vector of the columns and walks down the rows (column_grid.cuh), four
// rows at a time; a block's 512-byte slice of a small table stays in the first-level cache. Memory: the
// output is written once, tables that fit into a cache are read once.
//
// Backward: rows are sorted by id, then summed along the sorted order.
//  1. Stable radix sort of the row numbers by id, in passes of at most 10 bits (one pass for small tables,
//  two
//     up to 2^20 rows), each of three launches: digits are counted per tile of 4096 rows; a warp per digit
//     scans its counts over the tiles; each tile ranks its rows and scatters them. Ranks come from ballots
//     within a warp and per-warp counters, without atomics, so that equal ids keep their order and it takes
//     as long for one id as for many.
//  2. The sorted order is cut into chunks of equally many rows, whatever the ids, and a warp sums one chunk
//  in
//     one slice of 32 vectors: d_out is read once, in 512-byte pieces, through a ring in shared memory that
//     keeps 8 of a warp in flight; the sum stays in registers. A segment (the rows of one id) that lies
//     within a chunk is written to the table at once; one that crosses into other chunks leaves a part per
//     chunk in the workspace.
//  3. Segments that cross chunks are listed, and a block for each of them and 128 columns adds its parts in
//  the
//     chunks' order.
// Where the target is overwritten, rows that no id names are cleared.
#include <cuda_pipeline.h>

#include <algorithm>
#include <bit>

#include "kernels/cuda/column_grid.cuh"

namespace perceiver::kernels::cuda {
namespace {

template <typename T, int N>
__global__ void __launch_bounds__(ColumnGrid::kThreads) gather_kernel(ColumnGrid grid, Embedding k) {
  constexpr int kUnroll = ColumnGrid::kUnroll;
  const int64_t column = grid.vector() * N;
  if (column >= k.columns) return;
  T* out = static_cast<T*>(k.out) + column;
  for (int64_t first = grid.first_row(); first < grid.rows; first += grid.row_step()) {
    float sum[kUnroll][N] = {};
    for (int t = 0; t < k.tables; ++t) {
      const T* table = static_cast<const T*>(k.table[t]) + column;
      Pack<T, N> entries[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t r = first + u * ColumnGrid::kWalkers;
        if (r < grid.rows) entries[u] = load_pack<N>(table + k.ids[t][r * k.id_stride[t]] * k.columns);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u)
#pragma unroll
        for (int i = 0; i < N; ++i) sum[u][i] += to_float(entries[u].x[i]);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t r = first + u * ColumnGrid::kWalkers;
      if (r < grid.rows) store(out + r * k.columns, sum[u]);
    }
  }
}

// Backward, step 1: the sort.

constexpr int kSortWarps = 8;
constexpr int kSortThreads = 32 * kSortWarps;
constexpr int kSortRows = 4096;  // a tile
constexpr int kMaxBits = 10;

struct SortPass {
  int64_t rows;
  const int32_t* ids;
  int64_t id_stride;
  const int32_t* from;  // row numbers in the order of the pass before; null: 0, 1, 2 …
  int32_t* to;
  int32_t* counts;  // [digits, tiles]; after the scan, of the rows before a tile with this digit
  int32_t* totals;  // [digits]
  int64_t tiles;
  int shift, digits;
  int32_t* present;  // [table rows], set where an id occurs; null: not wanted

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

/// A warp's part of the block's tile: 512 successive rows, row 32 * i + lane of them in place i of a lane.
struct WarpRows {
  static constexpr int kSteps = kSortRows / kSortThreads;

  int32_t row[kSteps];
  int32_t digit[kSteps];
  int32_t count;  // of rows; less than 512 at the end

  /// All loads go out before the first is used.
  __device__ explicit WarpRows(const SortPass& pass) {
    const int64_t begin = static_cast<int64_t>(blockIdx.x) * kSortRows + threadIdx.x / 32 * (32 * kSteps);
    count = static_cast<int32_t>(max(int64_t{0}, min(int64_t{32} * kSteps, pass.rows - begin)));
#pragma unroll
    for (int i = 0; i < kSteps; ++i) row[i] = exists(i) ? pass.row(begin + place(i)) : 0;
#pragma unroll
    for (int i = 0; i < kSteps; ++i) digit[i] = exists(i) ? pass.id(row[i]) : 0;
    if (pass.present != nullptr) {
#pragma unroll
      for (int i = 0; i < kSteps; ++i)
        if (exists(i)) pass.present[digit[i]] = 1;
    }
#pragma unroll
    for (int i = 0; i < kSteps; ++i) digit[i] = pass.digit(digit[i]);
  }
  __device__ static int place(int i) {
    return 32 * i + static_cast<int>(threadIdx.x) % 32;
  }
  __device__ bool exists(int i) const {
    return place(i) < count;
  }

  /// The lanes whose row exists and has this lane's digit; place i.
  __device__ unsigned peers(int i, int digits) const {
    return same_digit(digit[i], digits) & __ballot_sync(0xffffffffu, exists(i));
  }
};

/// counter [warps][digits] of the block's tile.
__device__ inline void count_tile(const SortPass& pass, const WarpRows& rows, int32_t* counter) {
  for (int i = static_cast<int>(threadIdx.x); i < kSortWarps * pass.digits; i += kSortThreads) counter[i] = 0;
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int32_t* own = counter + threadIdx.x / 32 * pass.digits;
#pragma unroll
  for (int i = 0; i < WarpRows::kSteps; ++i) {
    const unsigned peers = rows.peers(i, pass.digits);
    if (rows.exists(i) && lane == __ffs(static_cast<int>(peers)) - 1) own[rows.digit[i]] += __popc(peers);
    __syncwarp();
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kSortThreads) count_kernel(SortPass pass) {
  extern __shared__ int32_t counter[];
  const WarpRows rows(pass);
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

/// A warp per digit: counts become those of the tiles before.
__global__ void __launch_bounds__(kSortThreads) scan_kernel(SortPass pass) {
  const int digit = static_cast<int>(blockIdx.x) * kSortWarps + static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (digit >= pass.digits) return;
  int32_t* counts = pass.counts + digit * pass.tiles;
  int32_t before = 0;
  for (int64_t base = 0; base < pass.tiles; base += 32) {
    const int64_t tile = base + lane;
    const int32_t own = tile < pass.tiles ? counts[tile] : 0;
    const int32_t inclusive = warp_inclusive_scan(own);
    if (tile < pass.tiles) counts[tile] = before + inclusive - own;
    before += __shfl_sync(0xffffffffu, inclusive, 31);
  }
  if (lane == 0) pass.totals[digit] = before;
}

/// start[digit] = number of rows with a smaller digit. Every block scans the totals again, which takes less
/// than another launch.
__device__ inline void scan_totals(const SortPass& pass, int32_t* start) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x / 32 == 0) {
    int32_t before = 0;
    for (int base = 0; base < pass.digits; base += 32) {
      const int digit = base + lane;
      const int32_t own = digit < pass.digits ? pass.totals[digit] : 0;
      const int32_t inclusive = warp_inclusive_scan(own);
      if (digit < pass.digits) start[digit] = before + inclusive - own;
      before += __shfl_sync(0xffffffffu, inclusive, 31);
    }
  }
  __syncthreads();
}

__global__ void __launch_bounds__(kSortThreads) scatter_kernel(SortPass pass) {
  extern __shared__ int32_t counter[];  // [warps][digits], then [digits]
  int32_t* start = counter + kSortWarps * pass.digits;
  const WarpRows rows(pass);
  scan_totals(pass, start);
  count_tile(pass, rows, counter);
  // Counts become the place of the warp's first row with the digit.
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
  for (int i = 0; i < WarpRows::kSteps; ++i) {
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

// Backward, steps 2 and 3: the sums.

constexpr int kChunkThreads = 256;
constexpr int kChunkBlocks = 5;  // of a multiprocessor, as many as the registers allow
constexpr int kSliceVectors = 32;
constexpr int64_t kMinChunkRows = 16;
constexpr int kRowsInFlight = 8;
constexpr int kCombineThreads = 256;

/// A segment that crosses chunks: from the end of `first` to the start of `last`.
struct SegmentSum {
  int64_t rows, columns, slices, chunks, chunk_rows;
  const int32_t* ids;
  int64_t id_stride;
  const int32_t* order;
  const void* d_out;
  float* table;
  bool accumulate;
  // Of each chunk: the part of the segment that began in an earlier chunk, and of the one that goes on in the
  // next.
  float* heads;
  float* tails;
  int32_t* head_ids;  // [chunks], -1 where there is no such part
  int32_t* tail_ids;
  int32_t* spans;  // first chunks of the segments that cross chunks
  int32_t* span_count;

  __device__ int32_t id(int64_t i) const { return ids[order[i] * id_stride]; }
  __device__ int64_t begin(int64_t chunk) const { return chunk * chunk_rows; }
  __device__ int64_t end(int64_t chunk) const { return min(rows, (chunk + 1) * chunk_rows); }
};

template <int N>
__device__ inline void write_sum(float* target, const float (&sum)[N], bool accumulate) {
  float old[N] = {};
  if (accumulate) load(static_cast<const float*>(target), old);
#pragma unroll
  for (int i = 0; i < N; ++i) old[i] += sum[i];
  store(target, old);
}

/// One warp's chunk and slice. Each lane copies and reads its own vector of a row alone, so that the ring
/// needs no barriers.
template <typename T, int N>
class ChunkSum {
 public:
  using Vector = Pack<T, N>;

  /// `ring` holds the lane's place in row 0; rows are 32 vectors apart.
  __device__ ChunkSum(const SegmentSum& k, int64_t chunk, int64_t column, Vector* ring)
      : k_(k), chunk_(chunk), column_(column), end_(k.end(chunk)), ring_(ring), active_(column < k.columns) {}

  __device__ void run() {
    const int64_t begin = k_.begin(chunk_);
    current_ = k_.id(begin);
    began_before_ = begin > 0 && k_.id(begin - 1) == current_;
    if (column_ == 0) k_.head_ids[chunk_] = began_before_ ? current_ : -1;
    Rows rows = fetch(begin), next = fetch(begin + 32);
    for (int i = 0; i < kRowsInFlight; ++i) copy(rows, i, i, begin + i < end_);
    for (int64_t base = begin; base < end_; base += 32) {
      const int count = static_cast<int>(min(int64_t{32}, end_ - base));
      for (int i = 0; i < count; ++i) {
        __pipeline_wait_prior(kRowsInFlight - 1);
        add(i % kRowsInFlight, __shfl_sync(0xffffffffu, rows.id, i));
        const int ahead = i + kRowsInFlight;
        copy(ahead < 32 ? rows : next, ahead % 32, i % kRowsInFlight, base + ahead < end_);
      }
      rows = next;
      next = fetch(base + 64);
    }
    const bool goes_on = end_ < k_.rows && k_.id(end_) == current_;
    if (column_ == 0) k_.tail_ids[chunk_] = goes_on && !began_before_ ? current_ : -1;
    finish(goes_on);
  }

 private:
  /// The number and id of one row a lane.
  struct Rows {
    int32_t row, id;
  };

  __device__ Rows fetch(int64_t base) const {
    const int64_t i = base + threadIdx.x % 32;
    if (i >= end_) return {0, 0};
    const int32_t row = k_.order[i];
    return {row, k_.ids[row * k_.id_stride]};
  }

  /// Starts the copy of a lane's row into a place of the ring; what does not exist counts as well.
  __device__ void copy(const Rows& rows, int lane, int place, bool exists) {
    const int64_t row = __shfl_sync(0xffffffffu, rows.row, lane);
    if (exists && active_) {
      const T* from = static_cast<const T*>(k_.d_out) + row * k_.columns + column_;
      if constexpr (sizeof(Vector) == 16) {
        __pipeline_memcpy_async(ring_ + 32 * place, from, sizeof(Vector));
      } else {
        ring_[32 * place] = load_pack<N>(from);
      }
    }
    __pipeline_commit();
  }

  __device__ void add(int place, int32_t id) {
    if (id != current_) {
      finish(false);
      current_ = id;
      began_before_ = false;
    }
    float x[N] = {};
    if (active_) unpack(ring_[32 * place], x);
#pragma unroll
    for (int j = 0; j < N; ++j) sum_[j] += x[j];
  }

  /// The current segment ends here, or goes on in the next chunk.
  __device__ void finish(bool goes_on) {
    if (active_) {
      if (began_before_ || goes_on) {
        store((began_before_ ? k_.heads : k_.tails) + chunk_ * k_.columns + column_, sum_);
      } else {
        write_sum(k_.table + current_ * k_.columns + column_, sum_, k_.accumulate);
      }
    }
#pragma unroll
    for (int j = 0; j < N; ++j) sum_[j] = 0;
  }

  const SegmentSum& k_;
  int64_t chunk_, column_, end_;
  Vector* ring_;
  bool active_, began_before_ = false;
  int32_t current_ = 0;
  float sum_[N] = {};
};

template <typename T, int N>
__global__ void __launch_bounds__(kChunkThreads, kChunkBlocks)
    chunk_kernel(const __grid_constant__ SegmentSum k) {
  __shared__ Pack<T, N> rings[kChunkThreads / 32][kRowsInFlight][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (kChunkThreads / 32) + warp;
  const int64_t chunk = item / k.slices, slice = item % k.slices;
  if (chunk >= k.chunks) return;
  ChunkSum<T, N>(k, chunk, (slice * kSliceVectors + lane) * N, &rings[warp][0][lane]).run();
}

/// One block lists the segments that cross chunks, in their order.
__global__ void __launch_bounds__(1024) list_kernel(const __grid_constant__ SegmentSum k) {
  __shared__ int32_t warp_counts[32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int32_t listed = 0;
  for (int64_t base = 0; base < k.chunks; base += blockDim.x) {
    const int64_t chunk = base + threadIdx.x;
    const bool starts = chunk < k.chunks && k.tail_ids[chunk] >= 0;
    const unsigned starting = __ballot_sync(0xffffffffu, starts);
    __syncthreads();
    if (lane == 0) warp_counts[warp] = __popc(starting);
    __syncthreads();
    int32_t place = listed + __popc(starting & ((1u << lane) - 1));
    for (int w = 0; w < 32; ++w) {
      if (w < warp) place += warp_counts[w];
      listed += warp_counts[w];
    }
    if (starts) k.spans[place] = static_cast<int32_t>(chunk);
  }
  if (threadIdx.x == 0) *k.span_count = listed;
}

/// The number of chunks behind `first` that begin with the same segment. Call it from all of a block.
__device__ inline int64_t chunks_after(const SegmentSum& k, int64_t first, int32_t id) {
  int64_t count = 0;
  for (int64_t base = first + 1; base < k.chunks; base += kCombineThreads) {
    const int64_t chunk = base + threadIdx.x;
    const int found = __syncthreads_count(chunk < k.chunks && k.head_ids[chunk] == id);
    count += found;
    if (found < kCombineThreads) break;
  }
  return count;
}

/// Sums the parts of a segment that crosses chunks: thread x a vector of columns, the 8 warps successive
/// parts.
template <int N>
__global__ void __launch_bounds__(kCombineThreads) combine_kernel(const __grid_constant__ SegmentSum k) {
  constexpr int kWarps = kCombineThreads / 32;
  __shared__ float shared[kWarps][32][N];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t slices = (k.columns + 32 * N - 1) / (32 * N), items = *k.span_count * slices;
  for (int64_t item = blockIdx.x; item < items; item += gridDim.x) {
    const int64_t first = k.spans[item / slices], column = (item % slices * 32 + lane) * N;
    const int32_t id = k.tail_ids[first];
    const int64_t heads = chunks_after(k, first, id);
    float sum[N] = {};
    if (column < k.columns) {
      if (warp == 0) load(static_cast<const float*>(k.tails) + first * k.columns + column, sum);
#pragma unroll 8
      for (int64_t head = warp; head < heads; head += kWarps) {
        float part[N];
        load(static_cast<const float*>(k.heads) + (first + 1 + head) * k.columns + column, part);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += part[i];
      }
    }
#pragma unroll
    for (int i = 0; i < N; ++i) shared[warp][lane][i] = sum[i];
    __syncthreads();
    if (warp == 0 && column < k.columns) {
#pragma unroll
      for (int w = 1; w < kWarps; ++w)
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += shared[w][lane][i];
      write_sum(k.table + id * k.columns + column, sum, k.accumulate);
    }
    __syncthreads();
  }
}

/// Clears the table rows that no id names; a warp a row.
template <int N>
__global__ void __launch_bounds__(kChunkThreads)
    clear_kernel(int64_t table_rows, int64_t columns, const int32_t* present, float* table) {
  const float zeros[N] = {};
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kChunkThreads / 32) + threadIdx.x / 32;
  if (row >= table_rows || present[row] != 0) return;
  for (int64_t column = threadIdx.x % 32 * N; column < columns; column += 32 * N)
    store(table + row * columns + column, zeros);
}

/// Hands out pieces of the workspace.
class Workspace {
 public:
  explicit Workspace(const Launch& launch)
      : next_(static_cast<char*>(launch.workspace)), end_(next_ + launch.workspace_bytes) {}

  template <typename T>
  T* take(int64_t count) {
    char* piece = next_;
    next_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), 256) * 256;
    require(next_ <= end_, "a larger workspace for embedding_backward");
    return reinterpret_cast<T*>(piece);
  }

 private:
  char* next_;
  char* end_;
};

void sort_pass(const Launch& launch, const SortPass& pass) {
  const size_t counter = sizeof(int32_t) * kSortWarps * static_cast<size_t>(pass.digits);
  const size_t start = sizeof(int32_t) * static_cast<size_t>(pass.digits);
  const unsigned tiles = static_cast<unsigned>(pass.tiles);
  const unsigned digit_blocks = static_cast<unsigned>(ceil_div(pass.digits, kSortWarps));
  count_kernel<<<tiles, kSortThreads, counter, stream_of(launch)>>>(pass);
  scan_kernel<<<digit_blocks, kSortThreads, 0, stream_of(launch)>>>(pass);
  scatter_kernel<<<tiles, kSortThreads, counter + start, stream_of(launch)>>>(pass);
  check_launch("embedding_backward: sort");
}

/// order [rows] = row numbers sorted by id, stable; marks `present` on the way.
void sort_rows(const Launch& launch, const EmbeddingBackward& k, int32_t* order, int32_t* present) {
  const int bits = std::max(1, static_cast<int>(std::bit_width(static_cast<uint64_t>(k.table_rows - 1))));
  const int passes = static_cast<int>(ceil_div(bits, kMaxBits));
  const int bits_per_pass = static_cast<int>(ceil_div(bits, passes));
  const int64_t tiles = ceil_div(k.rows, kSortRows);
  Workspace workspace(launch);
  SortPass pass{};
  pass.rows = k.rows, pass.ids = k.ids, pass.id_stride = k.id_stride;
  pass.tiles = tiles, pass.digits = 1 << bits_per_pass;
  pass.totals = workspace.take<int32_t>(pass.digits);
  pass.counts = workspace.take<int32_t>(pass.digits * tiles);
  int32_t* other = passes > 1 ? workspace.take<int32_t>(k.rows) : nullptr;
  for (int i = 0; i < passes; ++i) {
    pass.shift = i * bits_per_pass;
    pass.to = (passes - 1 - i) % 2 == 0 ? order : other;
    pass.present = i == 0 ? present : nullptr;
    sort_pass(launch, pass);
    pass.from = pass.to;
  }
}

template <typename T, int N>
void sum_segments(const Launch& launch, const EmbeddingBackward& k, const int32_t* order) {
  SegmentSum s{};
  s.rows = k.rows, s.columns = k.columns;
  s.slices = ceil_div(k.columns, kSliceVectors * N);
  // One wave of warps.
  const int64_t wanted =
      std::max<int64_t>(1, int64_t{kChunkBlocks} * kChunkThreads / 32 * launch.processors / s.slices);
  s.chunk_rows = std::max(kMinChunkRows, ceil_div(k.rows, wanted));
  s.chunks = ceil_div(k.rows, s.chunk_rows);
  s.ids = k.ids, s.id_stride = k.id_stride, s.order = order;
  s.d_out = k.d_out, s.table = static_cast<float*>(k.d_table), s.accumulate = k.accumulate;
  Workspace workspace(launch);  // the sort's pieces are no longer needed
  s.heads = workspace.take<float>(s.chunks * k.columns);
  s.tails = workspace.take<float>(s.chunks * k.columns);
  s.head_ids = workspace.take<int32_t>(s.chunks);
  s.tail_ids = workspace.take<int32_t>(s.chunks);
  s.spans = workspace.take<int32_t>(s.chunks);
  s.span_count = workspace.take<int32_t>(1);
  const int64_t blocks = ceil_div(s.chunks * s.slices, kChunkThreads / 32);
  chunk_kernel<T, N><<<static_cast<unsigned>(blocks), kChunkThreads, 0, stream_of(launch)>>>(s);
  list_kernel<<<1, 1024, 0, stream_of(launch)>>>(s);
  const unsigned combine_blocks = static_cast<unsigned>(8 * launch.processors);
  combine_kernel<(N > 1 ? 4 : 1)><<<combine_blocks, kCombineThreads, 0, stream_of(launch)>>>(s);
  check_launch("embedding_backward");
}

template <int N>
void clear_absent(const Launch& launch, const EmbeddingBackward& k, const int32_t* present) {
  const int64_t blocks = ceil_div(k.table_rows, kChunkThreads / 32);
  clear_kernel<N><<<static_cast<unsigned>(blocks), kChunkThreads, 0, stream_of(launch)>>>(
      k.table_rows, k.columns, present, static_cast<float*>(k.d_table));
  check_launch("embedding_backward: clear");
}

}  // namespace

void embedding(const Launch& launch, const Embedding& k) {
  if (k.rows == 0) return;
  with_type(k.type, [&]<typename T>() {
    bool wide = wide_rows<T>(k.columns, {k.out});
    for (int t = 0; t < k.tables; ++t) wide = wide && aligned({k.table[t]});
    with_width<T>(wide, [&]<int N>() {
      const ColumnGrid grid(k.rows, k.columns / N, streaming_blocks(launch));
      gather_kernel<T, N><<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k);
    });
  });
  check_launch("embedding");
}

void embedding_backward(const Launch& launch, const EmbeddingBackward& k) {
  require(k.rows < INT32_MAX && k.table_rows < INT32_MAX, "fewer than 2^31 rows");
  int32_t* present = k.accumulate ? nullptr : k.scratch;
  int32_t* order = k.scratch + k.table_rows + 1;
  const auto table_bytes = static_cast<size_t>(k.table_rows) * sizeof(int32_t);
  if (present != nullptr)
    check(cudaMemsetAsync(present, 0, table_bytes, stream_of(launch)), "embedding_backward");
  if (k.rows > 0) sort_rows(launch, k, order, present);
  with_type(k.type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(k.columns, {k.d_out, k.d_table}), [&]<int N>() {
      if (k.rows > 0) sum_segments<T, N>(launch, k, order);
      if (present != nullptr) clear_absent<(N > 1 ? 4 : 1)>(launch, k, present);
    });
  });
}

}  // namespace perceiver::kernels::cuda
