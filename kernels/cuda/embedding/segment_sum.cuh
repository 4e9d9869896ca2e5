// Sums of rows by id, in a fixed order, at the speed of memory.
//
//  1. Rows are sorted by id (row_sort.cu).
//  2. The sorted order is cut into chunks with equal numbers of rows, regardless of the ids, and a warp sums
//  one
//     chunk in one slice of columns: each lane a few vectors, far apart, so that all warps have as many of
//     keys as of values; their sums stay in registers. What a row contributes is up to a `Source`: rows of a
//     matrix are read once, through a ring in shared memory that keeps several rows per warp in flight. A
//     segment (the rows of one id) that lies within a chunk is written to the table at once; one that crosses
//     into other chunks leaves one part per chunk in the workspace.
//  3. One block per segment that crosses chunks and some hundred columns adds its parts in chunk order;
//  further
//     blocks clear the rows that no id names where the target is overwritten (segment_sum.cu).
//
// Five launches for tables of up to 1024 rows, each started while the previous one ends
// (dependent_launch.cuh). On an H100, where keys are rotated back, 16 warps per SM with 4 rows of 2 KiB each
// keep 128 KiB in flight, where 3 TB/s need 40. Of 786 us for 524,288 rows of 2048 bf16, rotated back, step 2
// takes 755, the sort 24 and step 3 6; of 115 us for 65,536 rows 99, 12 and 6, overlapping. Reading the rows
// once takes 699 and 94 us.
#pragma once

#include <cuda_pipeline.h>

#include <algorithm>
#include <bit>
#include <type_traits>

#include "kernels/cuda/embedding/row_sort.cuh"
#include "kernels/cuda/support/cache_policy.cuh"
#include "kernels/cuda/support/dependent_launch.cuh"
#include "kernels/cuda/support/vector.cuh"
#include "kernels/cuda/support/workspace.cuh"

namespace perceiver::kernels::cuda {

inline constexpr int kChunkThreads = 128;
inline constexpr int64_t kMinChunkRows = 16;

struct SegmentSum {
  int64_t rows, columns, slices, chunks, chunk_rows;
  int64_t vector_step;  // columns between the vectors of a lane
  const int32_t* ids;
  int64_t id_stride;
  const int32_t* order;
  float* table;
  bool accumulate;
  // For each chunk: the part of the segment that started in an earlier chunk, and of the one that continues
  // in the next.
  float* heads;
  float* tails;
  int32_t* head_ids;  // [chunks], -1 where there is no such part
  int32_t* tail_ids;

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

/// In the ring, a lane's part of a row is a few of these, 32 apart.
using RingUnit = uint4;

/// Copies a vector into the ring, asynchronously where it has 4 bytes or more.
template <int N, typename T>
__device__ inline void copy_ahead(RingUnit* unit, const T* from) {
  if constexpr (sizeof(Pack<T, N>) >= 4) {
    __pipeline_memcpy_async(unit, from, sizeof(Pack<T, N>));
  } else {
    *reinterpret_cast<Pack<T, N>*>(unit) = load_pack<N>(from);
  }
}

/// The same for a vector that is not read again, where other data should stay in the L2 cache.
template <int N, typename T>
__device__ inline void copy_ahead_once(RingUnit* unit, const T* from) {
  if constexpr (sizeof(Pack<T, N>) == sizeof(RingUnit)) {
    copy_async_by(evict_first(), static_cast<uint32_t>(__cvta_generic_to_shared(unit)), from);
  } else {
    copy_ahead<N>(unit, from);
  }
}

/// Reads a copy in one access: element by element, these kernels would be bound by shared memory.
template <int N, typename T>
__device__ inline void load_copy(const RingUnit* unit, float (&x)[N]) {
  if constexpr (sizeof(Pack<T, N>) == sizeof(RingUnit)) {
    unpack(std::bit_cast<Pack<T, N>>(*unit), x);
  } else {
    unpack(*reinterpret_cast<const Pack<T, N>*>(unit), x);
  }
}

/// For sources that need no Note.
struct Nothing {};

/// A lane's columns: `vectors` vectors, `step` apart, the first at `column`: of kVectors, those within the
/// matrix.
struct LaneColumns {
  int64_t column, step;
  int vectors;

  __device__ LaneColumns(const SegmentSum& k, int64_t column, int kVectors)
      : column(column), step(k.vector_step), vectors(0) {
    for (int v = 0; v < kVectors; ++v) vectors += column + v * step < k.columns;
  }
};

/// Rows of a matrix as they are. A source has: kWidth, elements of a vector; kVectors, vectors per lane;
/// kUnits of the ring for a lane's row; kAhead, rows in flight, a divisor of 32; kBlocks per SM that
/// registers and ring allow; Note, what all lanes need to know about a row (32 bits or Nothing), which note()
/// looks up well in advance; and Lane, what a lane does with its columns: start() starts fetching a row, and
/// add(units, note, note of the following row, sums) adds it. With the following row's note, or with expect()
/// for the first row, it may prefetch whatever else that row needs.
template <typename T, int N>
struct PlainRows {
  static constexpr int kWidth = N, kVectors = 2, kUnits = kVectors, kAhead = 4, kBlocks = 6;
  using Note = Nothing;
  const T* x;
  int64_t columns;

  __device__ Note note(int64_t) const { return {}; }

  class Lane {
   public:
    __device__ Lane(const PlainRows& rows, const LaneColumns& own)
        : own_(own), x_(rows.x + own.column), columns_(static_cast<int32_t>(rows.columns)) {}

    __device__ void start(int32_t row, RingUnit* units) const {
      const T* x = x_ + int64_t{row} * columns_;
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
        if (v < own_.vectors) copy_ahead<N>(units + 32 * v, x + v * own_.step);
    }

    __device__ void expect(Note) const {}

    __device__ void add(const RingUnit* units, Note, Note, float (&sum)[kVectors][N]) const {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        float x[N];
        load_copy<N, T>(units + 32 * v, x);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[v][i] += x[i];
      }
    }

   private:
    LaneColumns own_;
    const T* x_;
    int32_t columns_;
  };
};

/// One warp's chunk and slice. Each lane copies and reads only its own vectors of a row, so the ring needs no
/// barriers.
template <typename Source>
class ChunkSum {
 public:
  static constexpr int N = Source::kWidth, kVectors = Source::kVectors, kAhead = Source::kAhead;
  using Note = typename Source::Note;

  /// `ring` holds the lane's first unit of row 0; units are 32 apart.
  __device__ ChunkSum(const SegmentSum& k, const Source& source, int64_t chunk, int64_t column,
                      RingUnit* ring)
      : k_(k),
        source_(source),
        own_(k, column, kVectors),
        lane_(source, own_),
        chunk_(chunk),
        end_(k.end(chunk)),
        ring_(ring) {}

  __device__ void run() {
    const int64_t begin = k_.begin(chunk_);
    const int32_t id_before = begin > 0 ? k_.id(begin - 1) : -1, id_after = end_ < k_.rows ? k_.id(end_) : -1;
    Rows rows = fetch(begin), next = fetch(begin + 32);
    for (int i = 0; i < kAhead; ++i) start(rows, i, i, begin + i < end_);
    current_ = __shfl_sync(0xffffffffu, rows.id, 0);
    began_before_ = id_before == current_;
    if (own_.column == 0) k_.head_ids[chunk_] = began_before_ ? current_ : -1;
    Note note = note_of(rows, 0);
    lane_.expect(note);
    for (int64_t base = begin; base < end_; base += 32) {
      const int left = static_cast<int>(min(int64_t{64}, end_ - base));
      for (int i = 0; i < min(left, 32); ++i) {
        __pipeline_wait_prior(kAhead - 1);
        begin_segment(__shfl_sync(0xffffffffu, rows.id, i));
        const Note following = note_of(rows.or_else(next, i + 1 < 32), (i + 1) % 32);
        lane_.add(units(i % kAhead), note, following, sum_);
        note = following;
        const int ahead = i + kAhead;
        start(rows.or_else(next, ahead < 32), ahead % 32, i % kAhead, ahead < left);
      }
      rows = next;
      next = fetch(base + 64);
    }
    const bool goes_on = id_after == current_;
    if (own_.column == 0) k_.tail_ids[chunk_] = goes_on && !began_before_ ? current_ : -1;
    finish(goes_on);
  }

 private:
  /// Per lane, the number and id of one row, and the source's note on it.
  struct Rows {
    int32_t row, id;
    Note note;

    /// These or `others`; selected by value, so that both stay in registers.
    __device__ Rows or_else(const Rows& others, bool these) const {
      Rows rows{these ? row : others.row, these ? id : others.id, note};
      if constexpr (!std::is_same_v<Note, Nothing>) rows.note = these ? note : others.note;
      return rows;
    }
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

  __device__ RingUnit* units(int place) const { return ring_ + 32 * Source::kUnits * place; }

  /// Starts copying a lane's row into an entry of the ring; commits a group even for a row that does not
  /// exist.
  __device__ void start(const Rows& rows, int lane, int place, bool exists) {
    const int32_t row = __shfl_sync(0xffffffffu, rows.row, lane);
    if (exists) lane_.start(row, units(place));
    __pipeline_commit();
  }

  __device__ void begin_segment(int32_t id) {
    if (id == current_) return;
    finish(false);
    current_ = id;
    began_before_ = false;
  }

  /// Writes the current segment, which ends here or continues in the next chunk.
  __device__ void finish(bool goes_on) {
    const bool whole = !began_before_ && !goes_on;
    float* parts = (began_before_ ? k_.heads : k_.tails) + chunk_ * k_.columns;
    float* target = (whole ? k_.table + current_ * k_.columns : parts) + own_.column;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (v < own_.vectors) write_sum(target + v * own_.step, sum_[v], whole && k_.accumulate);
#pragma unroll
      for (int i = 0; i < N; ++i) sum_[v][i] = 0;
    }
  }

  const SegmentSum& k_;
  const Source& source_;
  LaneColumns own_;
  typename Source::Lane lane_;
  int64_t chunk_, end_;
  RingUnit* ring_;
  bool began_before_ = false;
  int32_t current_ = 0;
  float sum_[kVectors][N] = {};
};

template <typename Source>
__global__ void __launch_bounds__(kChunkThreads, Source::kBlocks)
    chunk_kernel(const __grid_constant__ SegmentSum k, const __grid_constant__ Source source) {
  constexpr int kWarps = kChunkThreads / 32, kUnits = std::max(1, Source::kAhead * Source::kUnits);
  __shared__ RingUnit rings[kWarps][kUnits][32];
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t item = static_cast<int64_t>(blockIdx.x) * kWarps + warp;
  const int64_t chunk = item / k.slices, slice = item % k.slices;
  if (chunk >= k.chunks) return;
  wait_for_earlier_kernels();
  ChunkSum<Source>(k, source, chunk, (slice * 32 + lane) * Source::kWidth, &rings[warp][0][lane]).run();
}

/// Rows of the table to clear: those not present.
struct AbsentRows {
  int64_t table_rows;
  const int32_t* present;  // null: none
};

/// Step 3, for vectors of `width` columns, 1 or more than 1.
void finish_sums(const Launch& launch, const SegmentSum& sum, const AbsentRows& absent, int width);

/// Where a sum by id goes.
struct SegmentTarget {
  int64_t columns;
  void* table;  // f32 [table_rows, columns]
  bool accumulate;
  int32_t* scratch;  // table_rows + 1 + rows
};

/// Slices of columns, each of kVectors vectors of kWidth columns per lane.
template <typename Source>
constexpr int64_t slices_of(int64_t columns) {
  return ceil_div(columns, 32 * Source::kWidth * Source::kVectors);
}

/// Step 2.
template <typename Source>
void sum_chunks(const Launch& launch, const Source& source, SegmentSum& s) {
  s.slices = slices_of<Source>(s.columns);
  s.vector_step = s.slices * 32 * Source::kWidth;
  // One wave of warps.
  const int64_t wanted =
      std::max<int64_t>(1, int64_t{Source::kBlocks} * kChunkThreads / 32 * launch.sm_count / s.slices);
  s.chunk_rows = std::max(kMinChunkRows, ceil_div(s.rows, wanted));
  s.chunks = ceil_div(s.rows, s.chunk_rows);
  Workspace workspace(launch);  // reuses the memory of the sort
  s.heads = workspace.take<float>(s.chunks * s.columns);
  s.tails = workspace.take<float>(s.chunks * s.columns);
  s.head_ids = workspace.take<int32_t>(s.chunks);
  s.tail_ids = workspace.take<int32_t>(s.chunks);
  const int64_t blocks = ceil_div(s.chunks * s.slices, kChunkThreads / 32);
  launch_dependent<chunk_kernel<Source>>(launch, "segment sums", static_cast<unsigned>(blocks), kChunkThreads,
                                         0, s, source);
}

/// table (+)= sums of the source's rows by id.
template <typename Source>
void sum_by_id(const Launch& launch, const RowIds& ids, const SegmentTarget& target, const Source& source) {
  require(ids.rows < INT32_MAX && ids.table_rows < INT32_MAX && target.columns < INT32_MAX,
          "fewer than 2^31 rows and columns");
  int32_t* present = target.accumulate ? nullptr : target.scratch;
  int32_t* order = target.scratch + ids.table_rows + 1;
  SegmentSum sum{};
  sum.rows = ids.rows, sum.columns = target.columns;
  sum.ids = ids.ids, sum.id_stride = ids.id_stride, sum.order = order;
  sum.table = static_cast<float*>(target.table), sum.accumulate = target.accumulate;
  if (ids.rows > 0) {
    sort_rows(launch, ids, order, present);
    sum_chunks(launch, source, sum);
  } else if (present != nullptr) {
    check(
        cudaMemsetAsync(present, 0, static_cast<size_t>(ids.table_rows) * sizeof(int32_t), stream_of(launch)),
        "sum by id");
  }
  finish_sums(launch, sum, {ids.table_rows, present}, Source::kWidth);
}

}  // namespace perceiver::kernels::cuda
