// Scalars of a step, by one thread, so that sums have a fixed order; and sums of pieces (elementwise.cuh),
// which read each piece and write the sum once.
#include "kernels/cuda/elementwise/elementwise.cuh"
#include "kernels/ranks.h"

namespace perceiver::kernels::cuda {
namespace {

__global__ void shared_loss_scale_kernel(SharedLossScale k) {
  k.scalars->loss_scale = k.mean ? 1 / fmax(1.0, *k.targets) : 1 / k.sharing;
}

__global__ void pack_totals_kernel(PackTotals k) {
  for (int i = 0; i < 5; ++i) k.totals[i] = k.loss_totals[i];
  double sum = 0;
  for (int64_t i = 0; i < k.count; ++i) sum += k.squared_norms[i];
  k.totals[5] = sum;
}

struct SumPiecesOp {
  const float* others;
  float* sum;
  int64_t elements, own, count;

  template <int N>
  struct Values {
    float total[N];
  };
  __device__ bool begin() { return true; }
  template <int N>
  __device__ void load(int64_t i, Values<N>& v) const {
    unpack(piece<N>(0, i), v.total);
    for (int64_t p = 1; p < count; ++p) {
      float next[N];
      unpack(piece<N>(p, i), next);
#pragma unroll
      for (int j = 0; j < N; ++j) v.total[j] += next[j];
    }
  }
  template <int N>
  __device__ Pack<float, N> piece(int64_t p, int64_t i) const {
    if (p == own) return load_pack<N>(sum + i);
    return load_pack<N>(others + (p < own ? p : p - 1) * elements + i);
  }
  template <int N>
  __device__ void store(int64_t i, const Values<N>& v) const {
    cuda::store(sum + i, v.total);
  }
};

}  // namespace

void shared_loss_scale(const Launch& launch, const SharedLossScale& k) {
  shared_loss_scale_kernel<<<1, 1, 0, stream_of(launch)>>>(k);
  check_launch("shared_loss_scale");
}

void pack_totals(const Launch& launch, const PackTotals& k) {
  pack_totals_kernel<<<1, 1, 0, stream_of(launch)>>>(k);
  check_launch("pack_totals");
}

void sum_pieces(const Launch& launch, const SumPieces& k) {
  require(k.type == DType::f32, "pieces in f32 to add");
  const SumPiecesOp op{.others = static_cast<const float*>(k.others),
                       .sum = static_cast<float*>(k.sum),
                       .elements = k.elements,
                       .own = k.own,
                       .count = k.count};
  const bool wide = aligned({k.others, k.sum}) && k.elements % kWide<float> == 0;
  for_each_element<kWide<float>>(launch, k.elements, wide, op, "sum_pieces");
}

}  // namespace perceiver::kernels::cuda
