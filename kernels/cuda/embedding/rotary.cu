// Rotary position encoding, in place.
//
// The "columns" of the grid (column_grid.cuh) are the vectors of rotated channels of all heads of a row: a
// thread owns one vector of pairs (16 bytes) of one head and walks down the rows, four at a time. Memory: the
// rotated channels are read and written once; the cosines and sines of a position are shared by its heads and
// come from the caches.
#include "kernels/cuda/support/column_grid.cuh"
#include "kernels/cuda/support/dependent_launch.cuh"
#include "kernels/cuda/support/rotate.cuh"
#include "kernels/embedding.h"

namespace perceiver::kernels::cuda {
namespace {

/// kPairs pairs per access, or, kSingle, 1 pair read element by element where the layout is ragged.
template <typename T, int kPairs, bool kSingle>
__global__ void __launch_bounds__(ColumnGrid::kThreads) rotary_kernel(ColumnGrid grid, Rotary k) {
  start_after_earlier_kernels();
  constexpr int kUnroll = ColumnGrid::kUnroll;
  constexpr int kAccess = kSingle ? 1 : 2 * kPairs, kAccesses = 2 * kPairs / kAccess;
  const int64_t vector = grid.vector();
  if (vector >= grid.vectors) return;
  const int64_t vectors_per_head = k.bands / kPairs;
  const int64_t head = vector / vectors_per_head, band = vector % vectors_per_head * kPairs;
  T* base = static_cast<T*>(k.x) + head * k.head_dim + 2 * band;
  for (int64_t first = grid.first_row(); first < grid.rows; first += grid.row_step()) {
    Pack<T, kAccess> packs[kUnroll][kAccesses];
    int64_t position[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t row = first + u * ColumnGrid::kWalkers;
      if (row >= grid.rows) continue;
      position[u] = k.positions[row];
#pragma unroll
      for (int a = 0; a < kAccesses; ++a)
        packs[u][a] = load_pack<kAccess>(base + row * k.row_stride + a * kAccess);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t row = first + u * ColumnGrid::kWalkers;
      if (row >= grid.rows) break;
      const bool negative = position[u] < 0;
      const float sign = static_cast<float>(negative ? -k.direction : k.direction);
      const int64_t entry = (negative ? -position[u] : position[u]) * k.bands + band;
      float cosine[kPairs], sine[kPairs], x[kAccesses][kAccess];
      load(static_cast<const float*>(k.cosine) + entry, cosine);
      load(static_cast<const float*>(k.sine) + entry, sine);
#pragma unroll
      for (int a = 0; a < kAccesses; ++a) unpack(packs[u][a], x[a]);
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        float& even = x[2 * i / kAccess][2 * i % kAccess];
        float& odd = x[(2 * i + 1) / kAccess][(2 * i + 1) % kAccess];
        rotate_pair(even, odd, cosine[i], sign * sine[i]);
      }
#pragma unroll
      for (int a = 0; a < kAccesses; ++a) store(base + row * k.row_stride + a * kAccess, x[a]);
    }
  }
}

template <typename T, int kPairs, bool kSingle>
void rotate(const Launch& launch, const Rotary& k) {
  const ColumnGrid grid(k.rows, k.heads * (k.bands / kPairs), streaming_blocks(launch));
  launch_dependent<rotary_kernel<T, kPairs, kSingle>>(launch, "rotary", grid.blocks(), ColumnGrid::threads(),
                                                      0, grid, k);
}

}  // namespace

void rotary(const Launch& launch, const Rotary& k) {
  if (k.rows == 0 || k.heads == 0 || k.bands == 0) return;
  with_type(k.type, [&]<typename T>() {
    constexpr int N = kWide<T>;
    const bool wide = k.bands % (N / 2) == 0 && k.head_dim % N == 0 && k.row_stride % N == 0 &&
                      aligned({k.x, k.cosine, k.sine});
    if (wide) {
      rotate<T, N / 2, false>(launch, k);
    } else {
      rotate<T, 1, true>(launch, k);
    }
  });
}

}  // namespace perceiver::kernels::cuda
