// Generation's small kernels: products of few rows, new rows of the slots' rings.
#include "kernels/cuda/vector.cuh"

namespace perceiver::kernels::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kRows = 4;

/// A warp makes one column of the result for all rows, kRows at a time: the column's weights come from memory
/// once and from the caches after that. Lanes take packs of `depth` in turn; a sum's order does not depend on
/// the number of rows.
template <typename T, int N>
__global__ void __launch_bounds__(kThreads) row_products_kernel(RowProducts k) {
  const int64_t column = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (column >= k.columns) return;
  const T* weight = static_cast<const T*>(k.weight) + column * k.depth;
  const T* x = static_cast<const T*>(k.x);
  const float bias = k.bias == nullptr ? 0.0f : to_float(static_cast<const T*>(k.bias)[column]);
  for (int64_t first = 0; first < k.rows; first += kRows) {
    float sum[kRows] = {};
    for (int64_t i = lane * N; i < k.depth; i += 32 * N) {
      float w[N];
      load(weight + i, w);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (first + r >= k.rows) break;
        float values[N];
        load(x + (first + r) * k.depth + i, values);
#pragma unroll
        for (int j = 0; j < N; ++j) sum[r] = fmaf(values[j], w[j], sum[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float total = warp_sum(sum[r]);
      if (lane == 0 && first + r < k.rows)
        static_cast<T*>(k.out)[(first + r) * k.columns + column] = from_float<T>(total + bias);
    }
  }
}

/// One block a source row; elements as words of their size.
template <typename Word>
__global__ void __launch_bounds__(kThreads) write_rows_kernel(WriteRows k) {
  const int64_t source_row = blockIdx.x, slot = source_row / k.copies, copy = source_row % k.copies;
  if (k.active != nullptr && k.active[slot] == 0) return;
  const int64_t first = k.row == nullptr ? 0 : k.row[slot];
  const Word* source = static_cast<const Word*>(k.source) + source_row * k.source_stride;
  Word* target = static_cast<Word*>(k.target) + (slot * k.capacity + (first + copy) % k.capacity) * k.columns;
  for (int64_t c = threadIdx.x; c < k.columns; c += kThreads) target[c] = source[c];
}

}  // namespace

void row_products(const Launch& launch, const RowProducts& k) {
  if (k.rows == 0) return;
  require(k.weight_type == k.type, "weights of the activations' type");
  with_type(k.type, [&]<typename T>() {
    with_width<T>(wide_rows<T>(k.depth, {k.x, k.weight}), [&]<int N>() {
      const auto blocks = static_cast<unsigned>(ceil_div(k.columns, kWarps));
      row_products_kernel<T, N><<<blocks, kThreads, 0, stream_of(launch)>>>(k);
    });
  });
  check_launch("row_products");
}

void write_rows(const Launch& launch, const WriteRows& k) {
  const auto blocks = static_cast<unsigned>(k.slots * k.copies);
  if (blocks == 0) return;
  if (size_of(k.type) == 2) {
    write_rows_kernel<uint16_t><<<blocks, kThreads, 0, stream_of(launch)>>>(k);
  } else {
    require(size_of(k.type) == 4, "elements of 2 or 4 bytes");
    write_rows_kernel<uint32_t><<<blocks, kThreads, 0, stream_of(launch)>>>(k);
  }
  check_launch("write_rows");
}

}  // namespace perceiver::kernels::cuda
