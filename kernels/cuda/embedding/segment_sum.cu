// Step 3 of sums by id (segment_sum.cuh): segments that cross chunks, and table rows that no id names.
#include "kernels/cuda/embedding/segment_sum.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kFinishThreads = 128;
constexpr int kFinishWarps = kFinishThreads / 32;
constexpr int kFinishVectors = 4;  // per lane, in flight together

struct Finish {
  SegmentSum sum;
  AbsentRows absent;
  int64_t groups;  // of columns: 32 * kFinishVectors vectors each
};

__device__ inline int32_t head_id(const SegmentSum& k, int64_t chunk) {
  return chunk < k.chunks ? k.head_ids[chunk] : -1;
}

/// The number of consecutive chunks whose head belongs to the segment `id`; `head` is that of this thread's
/// chunk. Call it from the whole block.
__device__ inline int64_t count_heads(const SegmentSum& k, int64_t chunk, int32_t head, int32_t id) {
  int64_t count = 0;
  while (true) {
    const int found = __syncthreads_count(head == id);
    count += found;
    if (found < kFinishThreads) return count;
    chunk += kFinishThreads;
    head = head_id(k, chunk);
  }
}

/// Sums the parts of the segment that starts in chunk `first` and crosses into others, if there is one: each
/// lane sums kFinishVectors vectors of columns from `column` on, 32 vectors apart; the warps take consecutive
/// parts.
template <int N>
__device__ inline void combine_parts(const SegmentSum& k, int64_t first, int64_t column) {
  constexpr int kStep = 32 * N;
  __shared__ float shared[kFinishWarps][kFinishVectors][32][N];
  const int64_t chunk = first + 1 + threadIdx.x;
  const int32_t id = k.tail_ids[first], head = head_id(k, chunk);
  if (id < 0) return;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t parts = 1 + count_heads(k, chunk, head, id);
  float sum[kFinishVectors][N] = {};
#pragma unroll 2
  for (int64_t part = warp; part < parts; part += kFinishWarps) {
    const float* x = (part == 0 ? k.tails : k.heads) + (first + part) * k.columns;
    Pack<float, N> packs[kFinishVectors] = {};
#pragma unroll
    for (int v = 0; v < kFinishVectors; ++v)
      if (column + v * kStep < k.columns) packs[v] = load_pack<N>(x + column + v * kStep);
#pragma unroll
    for (int v = 0; v < kFinishVectors; ++v)
#pragma unroll
      for (int i = 0; i < N; ++i) sum[v][i] += packs[v].x[i];
  }
#pragma unroll
  for (int v = 0; v < kFinishVectors; ++v) store(shared[warp][v][lane], sum[v]);
  __syncthreads();
  // Warp v sums vector v.
  if (column + warp * kStep >= k.columns) return;
  float total[N] = {};
#pragma unroll
  for (int w = 0; w < kFinishWarps; ++w)
#pragma unroll
    for (int i = 0; i < N; ++i) total[i] += shared[w][warp][lane][i];
  write_sum(k.table + id * k.columns + column + warp * kStep, total, k.accumulate);
}

/// Clears the table rows that no id names; a warp per row.
template <int N>
__device__ inline void clear_absent(const Finish& k, int64_t block) {
  const float zeros[N] = {};
  const int64_t row = block * kFinishWarps + threadIdx.x / 32;
  if (row >= k.absent.table_rows || k.absent.present[row] != 0) return;
  for (int64_t column = threadIdx.x % 32 * N; column < k.sum.columns; column += 32 * N)
    store(k.sum.table + row * k.sum.columns + column, zeros);
}

/// First the blocks that combine, then those that clear.
template <int N>
__global__ void __launch_bounds__(kFinishThreads) finish_kernel(const __grid_constant__ Finish k) {
  static_assert(kFinishWarps == kFinishVectors);
  wait_for_earlier_kernels();
  const int64_t combining = k.sum.chunks * k.groups, block = blockIdx.x;
  if (block >= combining) return clear_absent<N>(k, block - combining);
  const int64_t group = block % k.groups;
  combine_parts<N>(k.sum, block / k.groups, (group * kFinishVectors * 32 + threadIdx.x % 32) * N);
}

template <int N>
void finish(const Launch& launch, const SegmentSum& sum, const AbsentRows& absent) {
  const int64_t groups = ceil_div(sum.columns, 32 * kFinishVectors * N);
  const int64_t clearing = absent.present == nullptr ? 0 : ceil_div(absent.table_rows, kFinishWarps);
  const auto blocks = static_cast<unsigned>(sum.chunks * groups + clearing);
  if (blocks == 0) return;
  launch_dependent<finish_kernel<N>>(launch, "segment sums", blocks, kFinishThreads, 0,
                                     Finish{sum, absent, groups});
}

}  // namespace

void finish_sums(const Launch& launch, const SegmentSum& sum, const AbsentRows& absent, int width) {
  width > 1 ? finish<4>(launch, sum, absent) : finish<1>(launch, sum, absent);
}

}  // namespace perceiver::kernels::cuda
