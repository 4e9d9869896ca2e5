// The end of sums by id (segment_sum.cuh): segments that cross chunks, and rows without any.
#include "kernels/cuda/segment_sum.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kCombineThreads = 256;

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

template <int N>
void combine(const Launch& launch, const SegmentSum& sum) {
  const unsigned blocks = static_cast<unsigned>(8 * launch.processors);
  combine_kernel<N><<<blocks, kCombineThreads, 0, stream_of(launch)>>>(sum);
}

}  // namespace

void combine_chunks(const Launch& launch, const SegmentSum& sum, int width) {
  list_kernel<<<1, 1024, 0, stream_of(launch)>>>(sum);
  width > 1 ? combine<4>(launch, sum) : combine<1>(launch, sum);
  check_launch("sum by id: combine");
}

void clear_absent(const Launch& launch, int64_t table_rows, int64_t columns, const int32_t* present,
                  float* table, int width) {
  const auto blocks = static_cast<unsigned>(ceil_div(table_rows, kChunkThreads / 32));
  if (width > 1) {
    clear_kernel<4><<<blocks, kChunkThreads, 0, stream_of(launch)>>>(table_rows, columns, present, table);
  } else {
    clear_kernel<1><<<blocks, kChunkThreads, 0, stream_of(launch)>>>(table_rows, columns, present, table);
  }
  check_launch("sum by id: clear");
}

}  // namespace perceiver::kernels::cuda
