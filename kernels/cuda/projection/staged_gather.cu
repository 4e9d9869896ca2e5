// projected_rows where the tables are short: one block per SM keeps a slice of all of them, 128 columns (64
// of longer ones), in shared memory, and makes these columns of its share of the rows. Only ids, positions
// and angles are read for a row, and its columns written once.
//
// A warp takes 32 consecutive rows at a time, whose ids and positions its lanes load together, and computes
// two (four) at once, each lane eight columns of one: with four columns a lane, instructions were the limit.
// Notes on the next rows are on their way meanwhile. Neighbouring warps take the corresponding rows of the
// next example, which has the same positions, so that the angles come from L1.
//
// Shared memory: 512 bytes per table row, 133 KB for 259 tokens; 256 beyond 443 rows, up to 886. Lanes read
// 16 bytes at a time, so each lane's lower four columns are together, then the upper ones.
#include <algorithm>

#include "kernels/cuda/projection/rotation.cuh"
#include "kernels/cuda/projection/staged_gather.cuh"
#include "kernels/cuda/support/constants.cuh"

namespace perceiver::kernels::cuda {
namespace {

using bf16 = __nv_bfloat16;

constexpr int kThreads = 640, kWarps = kThreads / 32, kUnroll = 2;
constexpr int kStagedTables = 4;
constexpr int64_t kLeastRows = 1 << 15;

struct Staged {
  ProjectedRows k;
  int slices;  // of columns
  int groups;  // of blocks, among which the rows are divided; a group's blocks have two slices each
};

/// 32 rows of an example, or fewer at its end.
struct Chunk {
  int64_t first;
  int count;

  __device__ Chunk(const ProjectedRows& k, int64_t index) {
    const auto examples = static_cast<uint32_t>(k.examples), i = static_cast<uint32_t>(index);
    const int64_t places = k.rows / k.examples, place = int64_t{i / examples} * 32;
    first = int64_t{i % examples} * places + place;
    count = static_cast<int>(min(int64_t{32}, places - place));
  }
};

/// Copies columns [column, column + kStagedColumns * kLanes) of all tables to shared memory, one table after
/// the other.
template <int kLanes>
__device__ inline void stage_tables(const ProjectedRows& k, int64_t column, float4* staged) {
  constexpr int kUnits = 2 * kLanes;  // of four columns
  const int unit = static_cast<int>(threadIdx.x) % kUnits, place = unit / 2 + unit % 2 * kLanes;
  for (int t = 0; t < k.terms.tables; ++t) {
    const float* table = static_cast<const float*>(k.terms.table[t]) + column + unit * 4;
    const auto rows = static_cast<int>(k.terms.table_rows[t]);
#pragma unroll 4
    for (int row = static_cast<int>(threadIdx.x) / kUnits; row < rows; row += kThreads / kUnits)
      staged[row * kUnits + place] = *reinterpret_cast<const float4*>(table + row * k.columns);
    staged += rows * kUnits;
  }
  __syncthreads();
}

/// What a lane knows of one of its warp's 32 rows.
struct RowNotes {
  int32_t slots[kStagedTables];  // of the table rows in shared memory
  int32_t position = 0;
  float factor = 1;

  __device__ RowNotes(const ProjectedRows& k, int64_t row) {
    int32_t first = 0;
#pragma unroll
    for (int t = 0; t < kStagedTables; ++t) {
      slots[t] = 0;
      if (t >= k.terms.tables) continue;
      slots[t] = first + k.terms.ids[t][row * k.terms.id_stride[t]];
      first += static_cast<int32_t>(k.terms.table_rows[t]);
    }
    if (k.rotation.bands > 0) position = k.rotation.positions[row];
    if (k.rstd != nullptr) factor = static_cast<const float*>(k.rstd)[row];
  }
};

/// sum (+)= a row of a staged table.
template <int kLanes, bool kFirst>
__device__ inline void add_staged(const float4* staged, int32_t slot, int own, float (&sum)[kStagedColumns]) {
  const float4 low = staged[slot * 2 * kLanes + own], high = staged[slot * 2 * kLanes + kLanes + own];
  const float entry[kStagedColumns] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
  for (int i = 0; i < kStagedColumns; ++i) sum[i] = kFirst ? entry[i] : sum[i] + entry[i];
}

/// A lane's columns of a slice whose tables are staged.
template <int kLanes>
class SliceColumns {
 public:
  __device__ SliceColumns(const ProjectedRows& k, int64_t first_column, const float4* staged)
      : k_(k),
        staged_(staged),
        own_(static_cast<int>(threadIdx.x) % kLanes),
        sub_(static_cast<int>(threadIdx.x) % 32 / kLanes),
        scales_(k.offset != nullptr || k.rstd != nullptr),
        where_(k.rotation, first_column + own_ * kStagedColumns),
        out_(static_cast<bf16*>(k.out) + first_column + own_ * kStagedColumns) {
    if (k.offset != nullptr)
      load(static_cast<const float*>(k.offset) + first_column + own_ * kStagedColumns, offset_);
  }

  /// The rows of a chunk; lane i has the notes of row i.
  __device__ __forceinline__ void write(const Chunk& chunk, const RowNotes& notes) const {
    for (int begin = 0; begin < chunk.count; begin += kUnroll * kAtOnce) {
      float sum[kUnroll][kStagedColumns];
      Angles<kStagedColumns / 2> angles[kUnroll];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int row = min(begin + u * kAtOnce + sub_, 31);
        const int32_t position = __shfl_sync(0xffffffffu, notes.position, row);
        if (where_.rotated) angles[u].load(k_.rotation, where_.band, position);
        add_tables(notes, row, sum[u]);
      }
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) {
        const int row = begin + u * kAtOnce + sub_;
        if (row >= chunk.count) continue;
        if (where_.rotated) angles[u].rotate(sum[u]);
        store(out_ + (chunk.first + row) * k_.columns, sum[u]);
      }
    }
  }

 private:
  static constexpr int kAtOnce = 32 / kLanes;  // rows of a warp

  __device__ __forceinline__ void add_tables(const RowNotes& notes, int row,
                                             float (&sum)[kStagedColumns]) const {
    add_staged<kLanes, true>(staged_, __shfl_sync(0xffffffffu, notes.slots[0], row), own_, sum);
#pragma unroll
    for (int t = 1; t < kStagedTables; ++t) {
      if (t >= k_.terms.tables) break;
      add_staged<kLanes, false>(staged_, __shfl_sync(0xffffffffu, notes.slots[t], row), own_, sum);
    }
    if (!scales_) return;
    const float factor = __shfl_sync(0xffffffffu, notes.factor, row);
#pragma unroll
    for (int i = 0; i < kStagedColumns; ++i) sum[i] = sum[i] * factor + offset_[i];
  }

  const ProjectedRows& k_;
  const float4* staged_;
  int own_, sub_;  // of the lanes that share a row; of the rows that a warp has at once
  bool scales_;
  RotatedColumn where_;
  bf16* out_;
  float offset_[kStagedColumns] = {};
};

template <int kLanes>
__global__ void __launch_bounds__(kThreads) staged_gather_kernel(const __grid_constant__ Staged s) {
  extern __shared__ float4 staged[];
  const ProjectedRows& k = s.k;
  const int pairs = (s.slices + 1) / 2, group = static_cast<int>(blockIdx.x) / pairs,
            lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t chunks = k.examples * ceil_div(k.rows / k.examples, 32);
  const int64_t begin = chunks * group / s.groups, end = chunks * (group + 1) / s.groups;
  const auto notes_of = [&](const Chunk& chunk) {
    return RowNotes(k, chunk.first + min(lane, chunk.count - 1));
  };
  for (int slice = static_cast<int>(blockIdx.x) % pairs; slice < s.slices; slice += pairs) {
    const int64_t column = int64_t{slice} * kLanes * kStagedColumns;
    __syncthreads();
    stage_tables<kLanes>(k, column, staged);
    const SliceColumns<kLanes> own(k, column, staged);
    if (begin + warp >= end) continue;
    Chunk chunk(k, begin + warp);
    RowNotes notes = notes_of(chunk);
    for (int64_t i = begin + warp; i < end; i += kWarps) {
      const Chunk next(k, min(i + kWarps, end - 1));
      const RowNotes next_notes = notes_of(next);
      own.write(chunk, notes);
      chunk = next, notes = next_notes;
    }
  }
}

/// Of a slice of all tables, in which `lanes` lanes share a row.
int64_t shared_bytes(const ProjectedRows& k, int lanes) {
  int64_t rows = 0;
  for (int t = 0; t < k.terms.tables; ++t) {
    require(k.terms.table_rows[t] > 0, "tables of known length");
    rows += k.terms.table_rows[t];
  }
  return rows * lanes * kStagedColumns * int64_t{sizeof(float)};
}

/// 16 or 8; 0 if the tables do not fit.
int lanes_of(const Launch& launch, const ProjectedRows& k) {
  int most = 0;
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, launch.device.index),
        "device attribute");
  for (const int lanes : {16, 8})
    if (k.columns % (lanes * kStagedColumns) == 0 && shared_bytes(k, lanes) <= most) return lanes;
  return 0;
}

}  // namespace

bool gather_staged(const Launch& launch, const ProjectedRows& k, bool wide) {
  if (k.type != DType::bf16 || !wide || k.terms.tables > kStagedTables || k.rows < kLeastRows) return false;
  const int lanes = lanes_of(launch, k);
  if (lanes == 0) return false;
  const auto slices = static_cast<int>(k.columns / (lanes * kStagedColumns));
  const int pairs = (slices + 1) / 2;
  const Staged s{k, slices, std::max(1, launch.sm_count / pairs)};
  const auto kernel = lanes == 16 ? staged_gather_kernel<16> : staged_gather_kernel<8>;
  const int64_t bytes = shared_bytes(k, lanes);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes)),
        "shared memory of projected_rows");
  kernel<<<static_cast<unsigned>(pairs * s.groups), kThreads, static_cast<size_t>(bytes),
           stream_of(launch)>>>(s);
  check_launch("projected_rows");
  return true;
}

}  // namespace perceiver::kernels::cuda
