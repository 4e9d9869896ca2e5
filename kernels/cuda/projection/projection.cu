// Keys and values from projected tables, and their backward (docs/projection.md).
//
// Forward, where the tables are long (short ones: staged_gather.cu): a thread owns four columns and walks
// down the rows (column_grid.cuh), four at a time; a block's 512-byte slice of a small table stays in the L1
// cache. Sum, scale, offset and rotation in registers, one store. Steps of 32 rows alternate between the
// examples, so that the rows of a long position table, which the examples share, come from the L2 cache.
// Memory: the output is written once.
//
// Backward of a table: a sum by id (segment_sum.cuh) of rows that are rotated back or scaled as they are
// read. Backward of the scale, and the variances: a warp per row, the examples' corresponding rows one after
// another.
#include "kernels/cuda/embedding/segment_sum.cuh"
#include "kernels/cuda/projection/rotation.cuh"
#include "kernels/cuda/projection/staged_gather.cuh"
#include "kernels/cuda/support/column_sums.cuh"
#include "kernels/cuda/support/constants.cuh"
#include "kernels/projection.h"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kWarpThreads = 256;

// Rotation.

/// Whether vectors of `width` columns hold whole pairs of which all or none are rotated.
bool rotates_in_vectors(const Rotation& how, int width) {
  return how.bands % (width / 2) == 0 && how.head_dim % width == 0 && aligned({how.cosine, how.sine});
}

void rotate_in_place(const Launch& launch, const Rotation& how, DType type, int64_t rows, int64_t columns,
                     void* x, int direction) {
  rotary(launch, {.type = type,
                  .rows = rows,
                  .row_stride = columns,
                  .heads = how.heads,
                  .head_dim = how.head_dim,
                  .bands = how.bands,
                  .x = x,
                  .positions = how.positions,
                  .cosine = how.cosine,
                  .sine = how.sine,
                  .direction = direction});
}

// Forward.

/// sum [kCount][N]: sums of the table rows of rows[u], from `column` on; negative rows do not exist.
template <int N, int kCount>
__device__ inline void sum_table_rows(const TableRows& terms, int64_t columns, int64_t column,
                                      const int32_t (&rows)[kCount], float (&sum)[kCount][N]) {
#pragma unroll
  for (int u = 0; u < kCount; ++u)
#pragma unroll
    for (int i = 0; i < N; ++i) sum[u][i] = 0;
  for (int t = 0; t < terms.tables; ++t) {
    const float* table = static_cast<const float*>(terms.table[t]) + column;
    Pack<float, N> entries[kCount];
#pragma unroll
    for (int u = 0; u < kCount; ++u)
      if (rows[u] >= 0)
        entries[u] = load_pack<N>(table + terms.ids[t][rows[u] * terms.id_stride[t]] * columns);
#pragma unroll
    for (int u = 0; u < kCount; ++u) {
      if (rows[u] < 0) continue;
#pragma unroll
      for (int i = 0; i < N; ++i) sum[u][i] += entries[u].x[i];
    }
  }
}

template <typename T, int N, bool kRotated>
__global__ void __launch_bounds__(ColumnGrid::kThreads)
    gather_kernel(ColumnGrid grid, const __grid_constant__ ProjectedRows k) {
  constexpr int kUnroll = ColumnGrid::kUnroll;
  const int64_t column = grid.vector() * N;
  if (column >= k.columns) return;
  const auto examples = static_cast<uint32_t>(k.examples);
  const int64_t places = k.rows / k.examples;
  const float* rstd = static_cast<const float*>(k.rstd);
  float offset[N] = {};
  if (k.offset != nullptr) load(static_cast<const float*>(k.offset) + column, offset);
  const RotatedColumn where(k.rotation, column);
  T* out = static_cast<T*>(k.out) + column;
  for (int64_t first = grid.first_row(); first < grid.rows; first += grid.row_step()) {
    const auto step = static_cast<uint32_t>(first / ColumnGrid::kRows);
    const int64_t example = step % examples, place = step / examples * ColumnGrid::kRows + threadIdx.y;
    int32_t rows[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t own = place + u * ColumnGrid::kWalkers;
      rows[u] = own < places ? static_cast<int32_t>(example * places + own) : -1;
    }
    float sum[kUnroll][N];
    sum_table_rows<N>(k.terms, k.columns, column, rows, sum);
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      if (rows[u] < 0) continue;
      const float factor = rstd == nullptr ? 1.0f : rstd[rows[u]];
#pragma unroll
      for (int i = 0; i < N; ++i) sum[u][i] = sum[u][i] * factor + offset[i];
      if constexpr (kRotated) {
        if (where.rotated) {
          Angles<N / 2> angles;
          angles.load(k.rotation, where.band, k.rotation.positions[rows[u]]);
          angles.rotate(sum[u]);
        }
      }
      store(out + int64_t{rows[u]} * k.columns, sum[u]);
    }
  }
}

template <typename T, int N, bool kRotated>
void gather(const Launch& launch, const ProjectedRows& k) {
  const int64_t steps = k.examples * ceil_div(k.rows / k.examples, ColumnGrid::kRows);
  const ColumnGrid grid(steps * ColumnGrid::kRows, k.columns / N, streaming_blocks(launch));
  gather_kernel<T, N, kRotated><<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k);
  check_launch("projected_rows");
}

bool wide_tables(const TableRows& terms, int64_t columns) {
  bool wide = columns % 4 == 0;
  for (int t = 0; t < terms.tables; ++t) wide = wide && aligned({terms.table[t]});
  return wide;
}

// Backward of the tables.

/// A segment_sum.cuh source: rows of a matrix, each times a factor.
template <typename T, int N>
struct ScaledRows {
  using Plain = PlainRows<T, N>;
  static constexpr int kWidth = N, kVectors = Plain::kVectors, kUnits = Plain::kUnits, kAhead = Plain::kAhead,
                       kBlocks = Plain::kBlocks;
  using Note = float;
  Plain rows;
  const float* factors;

  __device__ Note note(int64_t row) const { return factors[row]; }

  class Lane {
   public:
    __device__ Lane(const ScaledRows& k, const LaneColumns& own) : rows_(k.rows, own) {}
    __device__ void start(int32_t row, RingUnit* units) const { rows_.start(row, units); }
    __device__ void expect(Note) const {}
    __device__ void add(const RingUnit* units, Note factor, Note, float (&sum)[kVectors][N]) const {
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        float x[N];
        load_copy<N, T>(units + 32 * v, x);
#pragma unroll
        for (int i = 0; i < N; ++i) sum[v][i] += x[i] * factor;
      }
    }

   private:
    typename Plain::Lane rows_;
  };
};

/// A source: rows of a matrix, rotated back. The angles are fetched a row ahead and stay in the L2 cache as
/// long as they fit: every example needs them again. All of a lane's vectors are at the same channels of
/// their heads (see `shares_angles`); in rotated heads, channels that are not rotated have the angle 0, so
/// that the lanes of a warp do not diverge.
template <typename T, int N, int V>
struct RotatedRows {
  static constexpr int kWidth = N, kVectors = V, kUnits = V, kAhead = 4, kBlocks = V > 1 ? 4 : 7;
  using Note = int32_t;
  const T* x;
  int64_t columns;
  Rotation rotation;

  __device__ Note note(int64_t row) const { return rotation.positions[row]; }

  class Lane {
   public:
    __device__ Lane(const RotatedRows& k, const LaneColumns& own)
        : own_(own),
          x_(k.x + own.column),
          columns_(static_cast<int32_t>(k.columns)),
          bands_(static_cast<int32_t>(k.rotation.bands)) {
      const int64_t channel = own.column % k.rotation.head_dim;
      cosine_ = static_cast<const float*>(k.rotation.cosine) + channel / 2;
      sine_ = static_cast<const float*>(k.rotation.sine) + channel / 2;
      for (int v = 0; v < own.vectors; ++v)
        rotated_vectors_ += own.column + v * own.step < k.rotation.heads * k.rotation.head_dim;
      rotates_ = rotated_vectors_ > 0 && channel < 2 * k.rotation.bands;
#pragma unroll
      for (int i = 0; i < N / 2; ++i) next_cosine_.x[i] = 1, next_sine_.x[i] = 0;
    }

    __device__ void start(int32_t row, RingUnit* units) const {
      const T* x = x_ + int64_t{row} * columns_;
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (v < own_.vectors) copy_ahead_once<N>(units + 32 * v, x + v * own_.step);
    }

    __device__ void expect(Note position) {
      if (!rotates_) return;
      const int64_t entry = int64_t{abs(position)} * bands_;
      next_cosine_ = load_pack<N / 2>(cosine_ + entry);
      next_sine_ = load_pack<N / 2>(sine_ + entry);
    }

    __device__ void add(const RingUnit* units, Note position, Note following, float (&sum)[V][N]) {
      const Angles cosine = next_cosine_, sine = next_sine_;
      expect(following);
      const float sign = position < 0 ? -1.0f : 1.0f;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        float x[N];
        load_copy<N, T>(units + 32 * v, x);
        if (v < rotated_vectors_) {
#pragma unroll
          for (int i = 0; i < N / 2; ++i) {
            const float even = x[2 * i], odd = x[2 * i + 1], s = sign * sine.x[i];
            sum[v][2 * i] = fmaf(even, cosine.x[i], fmaf(odd, s, sum[v][2 * i]));
            sum[v][2 * i + 1] = fmaf(odd, cosine.x[i], fmaf(-even, s, sum[v][2 * i + 1]));
          }
        } else {
#pragma unroll
          for (int i = 0; i < N; ++i) sum[v][i] += x[i];
        }
      }
    }

   private:
    using Angles = Pack<float, N / 2>;

    LaneColumns own_;
    const T* x_;
    const float *cosine_, *sine_;
    int32_t columns_, bands_;
    int rotated_vectors_ = 0;  // the first vectors, which are in rotated heads
    bool rotates_;
    Angles next_cosine_, next_sine_;
  };
};

/// Whether every lane has all its vectors, and all at the same channels of their heads.
template <typename Source>
bool shares_angles(const Rotation& how, int64_t columns) {
  return columns >= 32 * Source::kWidth * Source::kVectors &&
         slices_of<Source>(columns) * 32 * Source::kWidth % how.head_dim == 0;
}

/// A source: sums of table rows, each times -rstd^3 * d_rstd / columns.
template <int N>
struct WeightedSums {
  static constexpr int kWidth = N, kVectors = 1, kUnits = 0, kAhead = 1, kBlocks = 8;
  using Note = int32_t;
  TableRows terms;
  int64_t columns;
  const float* rstd;
  const float* d_rstd;

  __device__ Note note(int64_t row) const { return static_cast<int32_t>(row); }

  class Lane {
   public:
    __device__ Lane(const WeightedSums& k, const LaneColumns& own) : k_(k), own_(own) {}
    __device__ void start(int32_t, RingUnit*) const {}
    __device__ void expect(Note) const {}
    __device__ void add(const RingUnit*, Note row, Note, float (&sum)[1][N]) const {
      if (own_.vectors == 0) return;
      const float r = k_.rstd[row];
      const float weight = -r * r * r * k_.d_rstd[row] / static_cast<float>(k_.columns);
      const int32_t rows[1] = {row};
      float x[1][N];
      sum_table_rows<N>(k_.terms, k_.columns, own_.column, rows, x);
#pragma unroll
      for (int i = 0; i < N; ++i) sum[0][i] += weight * x[0][i];
    }

   private:
    const WeightedSums& k_;
    LaneColumns own_;
  };
};

// Backward of the scale, and the variances: a warp per row.

constexpr int kVectors = 4;  // per lane, in flight together

/// The row of this warp, or -1. Corresponding rows of the examples are consecutive.
__device__ inline int64_t warp_row(int64_t rows, int64_t examples) {
  const int64_t item = static_cast<int64_t>(blockIdx.x) * (kWarpThreads / 32) + threadIdx.x / 32;
  if (item >= rows) return -1;
  const auto own = static_cast<uint32_t>(item), count = static_cast<uint32_t>(examples);
  return static_cast<int64_t>(own % count) * (rows / examples) + own / count;
}

/// Calls body(column, values) with the sums of the table rows of `row`: kVectors vectors of N columns at a
/// time, 32 * N apart; beyond `columns` they are 0.
template <int N, typename Body>
__device__ inline void for_each_sum(const TableRows& terms, int64_t columns, int64_t row, Body&& body) {
  for (int64_t base = threadIdx.x % 32 * N; base < columns; base += 32 * N * kVectors) {
    float sum[kVectors][N] = {};
    for (int t = 0; t < terms.tables; ++t) {
      const float* table =
          static_cast<const float*>(terms.table[t]) + terms.ids[t][row * terms.id_stride[t]] * columns;
      Pack<float, N> entries[kVectors] = {};
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        const int64_t column = base + v * 32 * N;
        if (column < columns) entries[v] = load_pack<N>(table + column);
      }
#pragma unroll
      for (int v = 0; v < kVectors; ++v)
#pragma unroll
        for (int i = 0; i < N; ++i) sum[v][i] += entries[v].x[i];
    }
    body(base, sum);
  }
}

template <int N>
__global__ void __launch_bounds__(kWarpThreads) rstd_kernel(const __grid_constant__ SumRstd k) {
  const int64_t row = warp_row(k.rows, k.examples);
  if (row < 0) return;
  float squares = 0;
  for_each_sum<N>(k.terms, k.columns, row, [&](int64_t, const float(&sum)[kVectors][N]) {
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
#pragma unroll
      for (int i = 0; i < N; ++i) squares += sum[v][i] * sum[v][i];
  });
  squares = warp_sum(squares);
  if (threadIdx.x % 32 == 0)
    static_cast<float*>(k.rstd)[row] = 1.0f / sqrtf(squares / static_cast<float>(k.columns) + kNormEpsilon);
}

template <typename T, int N>
__global__ void __launch_bounds__(kWarpThreads) dot_kernel(const __grid_constant__ ProjectedScaleBackward k) {
  const int64_t row = warp_row(k.rows, k.examples);
  if (row < 0) return;
  const T* d_out = static_cast<const T*>(k.d_out) + row * k.columns;
  float dot = 0;
  for_each_sum<N>(k.terms, k.columns, row, [&](int64_t base, const float(&sum)[kVectors][N]) {
    Pack<T, N> packs[kVectors];
#pragma unroll
    for (int v = 0; v < kVectors; ++v)
      if (base + v * 32 * N < k.columns) packs[v] = load_pack<N>(d_out + base + v * 32 * N);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      if (base + v * 32 * N >= k.columns) break;
#pragma unroll
      for (int i = 0; i < N; ++i) dot += to_float(packs[v].x[i]) * sum[v][i];
    }
  });
  dot = warp_sum(dot);
  if (threadIdx.x % 32 != 0) return;
  float* target = static_cast<float*>(k.d_rstd) + row;
  *target = dot + (k.accumulate_rstd ? *target : 0);
}

unsigned warp_blocks(int64_t rows) {
  return static_cast<unsigned>(ceil_div(rows, kWarpThreads / 32));
}

// Centring and scaling of tables, all in f32.

__global__ void __launch_bounds__(kWarpThreads) center_kernel(CenterRows k) {
  const int64_t row = warp_row(k.rows, 1);
  if (row < 0) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float* x = static_cast<const float*>(k.x) + row * k.columns;
  float* y = static_cast<float*>(k.y) + row * k.columns;
  float sum = 0;
#pragma unroll 8
  for (int64_t column = lane; column < k.columns; column += 32) sum += x[column];
  const float mean = warp_sum(sum) / static_cast<float>(k.columns);
  for (int64_t column = lane; column < k.columns; column += 32)
    y[column] = x[column] - mean + (k.accumulate ? y[column] : 0);
}

__global__ void __launch_bounds__(ColumnGrid::kThreads) scale_kernel(ColumnGrid grid, ScaleColumns k) {
  const int64_t column = grid.vector();
  if (column >= k.columns) return;
  const float factor = static_cast<const float*>(k.scale)[column];
  for (int64_t row = grid.first_row(); row < grid.rows; row += grid.row_step()) {
#pragma unroll
    for (int u = 0; u < ColumnGrid::kUnroll; ++u) {
      const int64_t r = row + u * ColumnGrid::kWalkers;
      if (r < grid.rows)
        static_cast<float*>(k.y)[r * k.columns + column] =
            factor * static_cast<const float*>(k.x)[r * k.columns + column];
    }
  }
}

/// d_x, and the block's part of d_scale.
__global__ void __launch_bounds__(ColumnGrid::kThreads)
    scale_backward_kernel(ColumnGrid grid, ScaleColumnsBackward k, float* parts) {
  const int64_t column = grid.vector();
  float sum[1] = {};
  if (column < k.columns) {
    const float factor = static_cast<const float*>(k.scale)[column];
    float* d_x = static_cast<float*>(k.d_x);
    for (int64_t row = grid.first_row(); row < grid.rows; row += grid.row_step()) {
#pragma unroll
      for (int u = 0; u < ColumnGrid::kUnroll; ++u) {
        const int64_t r = row + u * ColumnGrid::kWalkers, element = r * k.columns + column;
        if (r >= grid.rows) break;
        const float d_y = static_cast<const float*>(k.d_y)[element];
        sum[0] += d_y * static_cast<const float*>(k.x)[element];
        if (d_x != nullptr) d_x[element] = d_y * factor + (k.accumulate_x ? d_x[element] : 0);
      }
    }
  }
  if (parts != nullptr) write_part(grid, sum, parts);
}

void require_f32(DType type) {
  require(type == DType::f32, "tables in f32");
}

}  // namespace

void projected_rows(const Launch& launch, const ProjectedRows& k) {
  if (k.rows == 0) return;
  require(k.rows < INT32_MAX, "fewer than 2^31 rows");
  const bool wide = wide_tables(k.terms, k.columns) && aligned({k.out, k.offset});
  const bool rotates = k.rotation.bands > 0, fused = rotates && wide && rotates_in_vectors(k.rotation, 4);
  const bool staged = wide && (!rotates || rotates_in_vectors(k.rotation, kStagedColumns));
  if (gather_staged(launch, k, staged)) return;
  with_type(k.type, [&]<typename T>() {
    if (fused) {
      gather<T, 4, true>(launch, k);
    } else if (wide) {
      gather<T, 4, false>(launch, k);
    } else {
      gather<T, 1, false>(launch, k);
    }
  });
  if (rotates && !fused) rotate_in_place(launch, k.rotation, k.type, k.rows, k.columns, k.out, 1);
}

void projected_rows_backward(const Launch& launch, const ProjectedRowsBackward& k) {
  const RowIds ids{k.rows, k.table_rows, k.ids, k.id_stride};
  const SegmentTarget target{k.columns, k.d_table, k.accumulate, k.scratch};
  const float* rstd = static_cast<const float*>(k.rstd);
  const bool rotates = k.rotation.bands > 0;
  require(!rotates || rstd == nullptr, "a rotation or a scale, not both");
  with_type(k.type, [&]<typename T>() {
    const bool wide = wide_rows<T>(k.columns, {k.d_out, k.d_table});
    const bool fused = rotates && wide && rotates_in_vectors(k.rotation, kWide<T>);
    if (rotates && !fused) rotate_in_place(launch, k.rotation, k.type, k.rows, k.columns, k.d_out, -1);
    with_width<T>(wide, [&]<int N>() {
      const PlainRows<T, N> rows{static_cast<const T*>(k.d_out), k.columns};
      if constexpr (N > 1) {
        using Shared = RotatedRows<T, N, 4>;
        if (fused && shares_angles<Shared>(k.rotation, k.columns))
          return sum_by_id(launch, ids, target, Shared{rows.x, k.columns, k.rotation});
        if (fused) return sum_by_id(launch, ids, target, RotatedRows<T, N, 1>{rows.x, k.columns, k.rotation});
      }
      if (rstd != nullptr) return sum_by_id(launch, ids, target, ScaledRows<T, N>{rows, rstd});
      sum_by_id(launch, ids, target, rows);
    });
  });
}

void projected_scale_backward(const Launch& launch, const ProjectedScaleBackward& k) {
  if (k.rows == 0) {
    if (k.d_offset != nullptr && !k.accumulate_offset)
      check(cudaMemsetAsync(k.d_offset, 0, static_cast<size_t>(k.columns) * sizeof(float), stream_of(launch)),
            "projected_scale_backward");
    return;
  }
  require(k.rows < INT32_MAX, "fewer than 2^31 rows");
  with_type(k.type, [&]<typename T>() {
    if (wide_tables(k.terms, k.columns) && aligned({k.d_out})) {
      dot_kernel<T, 4><<<warp_blocks(k.rows), kWarpThreads, 0, stream_of(launch)>>>(k);
    } else {
      dot_kernel<T, 1><<<warp_blocks(k.rows), kWarpThreads, 0, stream_of(launch)>>>(k);
    }
  });
  check_launch("projected_scale_backward");
  if (k.d_offset != nullptr)
    sum_columns(launch, k.type, k.rows, k.columns, k.columns, k.d_out, static_cast<float*>(k.d_offset),
                k.accumulate_offset);
}

void sum_rstd(const Launch& launch, const SumRstd& k) {
  require_f32(k.type);
  if (k.rows == 0) return;
  require(k.rows < INT32_MAX, "fewer than 2^31 rows");
  if (wide_tables(k.terms, k.columns)) {
    rstd_kernel<4><<<warp_blocks(k.rows), kWarpThreads, 0, stream_of(launch)>>>(k);
  } else {
    rstd_kernel<1><<<warp_blocks(k.rows), kWarpThreads, 0, stream_of(launch)>>>(k);
  }
  check_launch("sum_rstd");
}

void sum_rstd_backward(const Launch& launch, const SumRstdBackward& k) {
  const SumRstd& f = k.forward;
  require_f32(f.type);
  const RowIds ids{f.rows, k.table_rows, f.terms.ids[k.table], f.terms.id_stride[k.table]};
  const SegmentTarget target{f.columns, k.d_table, k.accumulate, k.scratch};
  const auto run = [&]<int N>() {
    sum_by_id(launch, ids, target,
              WeightedSums<N>{f.terms, f.columns, static_cast<const float*>(f.rstd),
                              static_cast<const float*>(k.d_rstd)});
  };
  if (wide_tables(f.terms, f.columns) && aligned({k.d_table})) {
    run.template operator()<4>();
  } else {
    run.template operator()<1>();
  }
}

void center_rows(const Launch& launch, const CenterRows& k) {
  require_f32(k.type);
  if (k.rows == 0) return;
  center_kernel<<<warp_blocks(k.rows), kWarpThreads, 0, stream_of(launch)>>>(k);
  check_launch("center_rows");
}

void scale_columns(const Launch& launch, const ScaleColumns& k) {
  require_f32(k.type);
  const ColumnGrid grid(k.rows, k.columns, streaming_blocks(launch));
  scale_kernel<<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k);
  check_launch("scale_columns");
}

void scale_columns_backward(const Launch& launch, const ScaleColumnsBackward& k) {
  require_f32(k.type);
  ColumnGrid grid(k.rows, k.columns, resident_blocks(launch, 4));
  grid.row_blocks =
      static_cast<unsigned>(std::min<int64_t>(grid.row_blocks, parts_that_fit(launch, k.columns)));
  float* parts = k.d_scale == nullptr ? nullptr : static_cast<float*>(launch.workspace);
  scale_backward_kernel<<<grid.blocks(), ColumnGrid::threads(), 0, stream_of(launch)>>>(grid, k, parts);
  check_launch("scale_columns_backward");
  if (parts != nullptr)
    sum_parts(launch, {.parts = parts,
                       .count = grid.row_blocks,
                       .stride = k.columns,
                       .columns = k.columns,
                       .target = {static_cast<float*>(k.d_scale)},
                       .accumulate = {k.accumulate_scale}});
}

}  // namespace perceiver::kernels::cuda
