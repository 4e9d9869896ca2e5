// Sums of rows by id, in a fixed order, at the speed of memory.
//
//  1. Rows are sorted by id (row_sort.cu).
//  2. The sorted order is cut into chunks of equally many rows, whatever the ids, and a warp sums one chunk
//  in one
//     slice of 32 vectors; the sum stays in registers. What a row adds is a `Source`'s affair: rows of a
//     matrix are read once, in pieces of 32 vectors, through a ring in shared memory that keeps 8 of a warp
//     in flight. A segment (the rows of one id) that lies within a chunk is written to the table at once; one
//     that crosses into other chunks leaves a part per chunk in the workspace.
//  3. Segments that cross chunks are listed, and a block for each of them and 128 columns adds its parts in
//  the
//     chunks' order (segment_sum.cu).
// Where the target is overwritten, rows that no id names are cleared.
#pragma once

#include <cuda_pipeline.h>

#include <algorithm>
#include <type_traits>

#include "kernels/cuda/row_sort.cuh"

namespace perceiver::kernels::cuda {

inline constexpr int kChunkThreads = 256;
inline constexpr int kSliceVectors = 32;
inline constexpr int64_t kMinChunkRows = 16;
inline constexpr int kRowsInFlight = 8;

struct SegmentSum {
  int64_t rows, columns, slices, chunks, chunk_rows;
  const int32_t* ids;
  int64_t id_stride;
  const int32_t* order;
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

/// Copies a vector into a lane's place of the ring, asynchronously where it has 16 bytes.
template <typename T, int N>
__device__ inline void copy_ahead(Pack<T, N>* place, const T* from) {
  if constexpr (sizeof(Pack<T, N>) == 16) {
    __pipeline_memcpy_async(place, from, sizeof(Pack<T, N>));
  } else {
    *place = load_pack<N>(from);
  }
}

/// For sources that need no Note.
struct Nothing {};

/// Rows of a matrix as they are. A source has: kWidth, elements of a vector; kBlocks, blocks of a
/// multiprocessor that its registers allow; Note, what all lanes need to know of a row (32 bits or Nothing),
/// which note() looks up long before; Place, a lane's part of the ring; and Lane, what a lane does with its
/// column: start() begins to fetch a row, read() returns its values.
template <typename T, int N>
struct PlainRows {
  static constexpr int kWidth = N, kBlocks = 5;
  using Place = Pack<T, N>;
  using Note = Nothing;
  const T* x;
  int64_t columns;

  __device__ Note note(int64_t) const { return {}; }

  class Lane {
   public:
    __device__ Lane(const PlainRows& rows, int64_t column) : x_(rows.x + column), columns_(rows.columns) {}
    __device__ void start(int64_t row, Place* place) const { copy_ahead<T, N>(place, x_ + row * columns_); }
    __device__ void read(const Place& place, Note, float (&x)[N]) const { unpack(place, x); }

   private:
    const T* x_;
    int64_t columns_;
  };
};

/// One warp's chunk and slice. Each lane copies and reads its own vector of a row alone, so that the ring
/// needs no barriers.
template <typename Source>
class ChunkSum {
 public:
  static constexpr int N = Source::kWidth;
  using Place = typename Source::Place;
  using Note = typename Source::Note;

  /// `ring` holds the lane's place in row 0; rows are 32 places apart.
  __device__ ChunkSum(const SegmentSum& k, const Source& source, int64_t chunk, int64_t column, Place* ring)
      : k_(k),
        source_(source),
        lane_(source, column),
        chunk_(chunk),
        column_(column),
        end_(k.end(chunk)),
        ring_(ring),
        active_(column < k.columns) {}

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
        add(i % kRowsInFlight, note_of(rows, i), __shfl_sync(0xffffffffu, rows.id, i));
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
  /// The number and id of one row a lane, and the source's note of it.
  struct Rows {
    int32_t row, id;
    Note note;
  };

  __device__ Rows fetch(int64_t base) const {
    const int64_t i = base + threadIdx.x % 32;
    if (i >= end_) return {};
    const int32_t row = k_.order[i];
    return {row, k_.ids[row * k_.id_stride], source_.note(row)};
  }

  __device__ static Note note_of(const Rows& rows, int lane) {
    if constexpr (std::is_same_v<Note, Nothing>) {
      return {};
    } else {
      return __shfl_sync(0xffffffffu, rows.note, lane);
    }
  }

  /// Starts the copy of a lane's row into a place of the ring; what does not exist counts as well.
  __device__ void copy(const Rows& rows, int lane, int place, bool exists) {
    const int64_t row = __shfl_sync(0xffffffffu, rows.row, lane);
    if (exists && active_) lane_.start(row, ring_ + 32 * place);
    __pipeline_commit();
  }

  __device__ void add(int place, Note note, int32_t id) {
    if (id != current_) {
      finish(false);
      current_ = id;
      began_before_ = false;
    }
    float x[N] = {};
    if (active_) lane_.read(ring_[32 * place], note, x);
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
  const Source& source_;
  typename Source::Lane lane_;
  int64_t chunk_, column_, end_;
  Place* ring_;
  bool active_, began_before_ = false;
  int32_t current_ = 0;
  float sum_[N] = {};
};

template <typename Source>
__global__ void __launch_bounds__(kChunkThreads, Source::kBlocks)
    chunk_kernel(const __grid_constant__ SegmentSum k, const __grid_constant__ Source source) {
  __shared__ typename Source::Place rings[kChunkThreads / 32][kRowsInFlight][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (kChunkThreads / 32) + warp;
  const int64_t chunk = item / k.slices, slice = item % k.slices;
  if (chunk >= k.chunks) return;
  ChunkSum<Source>(k, source, chunk, (slice * kSliceVectors + lane) * Source::kWidth, &rings[warp][0][lane])
      .run();
}

/// Step 3, for vectors of `width` columns, 1 or more than 1.
void combine_chunks(const Launch& launch, const SegmentSum& sum, int width);

/// Clears the rows of table [table_rows, columns] that are not present.
void clear_absent(const Launch& launch, int64_t table_rows, int64_t columns, const int32_t* present,
                  float* table, int width);

/// Where a sum by id goes.
struct SegmentTarget {
  int64_t columns;
  void* table;  // f32 [table_rows, columns]
  bool accumulate;
  int32_t* scratch;  // table_rows + 1 + rows
};

/// Steps 2 and 3.
template <typename Source>
void sum_sorted(const Launch& launch, const RowIds& ids, const SegmentTarget& target, const int32_t* order,
                const Source& source) {
  constexpr int N = Source::kWidth;
  SegmentSum s{};
  s.rows = ids.rows, s.columns = target.columns;
  s.slices = ceil_div(s.columns, kSliceVectors * N);
  // One wave of warps.
  const int64_t wanted =
      std::max<int64_t>(1, int64_t{Source::kBlocks} * kChunkThreads / 32 * launch.processors / s.slices);
  s.chunk_rows = std::max(kMinChunkRows, ceil_div(s.rows, wanted));
  s.chunks = ceil_div(s.rows, s.chunk_rows);
  s.ids = ids.ids, s.id_stride = ids.id_stride, s.order = order;
  s.table = static_cast<float*>(target.table), s.accumulate = target.accumulate;
  Workspace workspace(launch);  // the sort's pieces are no longer needed
  s.heads = workspace.take<float>(s.chunks * s.columns);
  s.tails = workspace.take<float>(s.chunks * s.columns);
  s.head_ids = workspace.take<int32_t>(s.chunks);
  s.tail_ids = workspace.take<int32_t>(s.chunks);
  s.spans = workspace.take<int32_t>(s.chunks);
  s.span_count = workspace.take<int32_t>(1);
  const int64_t blocks = ceil_div(s.chunks * s.slices, kChunkThreads / 32);
  chunk_kernel<Source><<<static_cast<unsigned>(blocks), kChunkThreads, 0, stream_of(launch)>>>(s, source);
  check_launch("sum by id");
  combine_chunks(launch, s, N);
}

/// table (+)= sums of the source's rows by id.
template <typename Source>
void sum_by_id(const Launch& launch, const RowIds& ids, const SegmentTarget& target, const Source& source) {
  require(ids.rows < INT32_MAX && ids.table_rows < INT32_MAX, "fewer than 2^31 rows");
  int32_t* present = target.accumulate ? nullptr : target.scratch;
  int32_t* order = target.scratch + ids.table_rows + 1;
  const auto table_bytes = static_cast<size_t>(ids.table_rows) * sizeof(int32_t);
  if (present != nullptr) check(cudaMemsetAsync(present, 0, table_bytes, stream_of(launch)), "sum by id");
  if (ids.rows > 0) {
    sort_rows(launch, ids, order, present);
    sum_sorted(launch, ids, target, order, source);
  }
  if (present != nullptr)
    clear_absent(launch, ids.table_rows, target.columns, present, static_cast<float*>(target.table),
                 Source::kWidth);
}

}  // namespace perceiver::kernels::cuda
