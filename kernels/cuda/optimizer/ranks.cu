// A few scalars: one thread, so that sums have a fixed order.
#include "kernels/cuda/support/common.cuh"
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

}  // namespace

void shared_loss_scale(const Launch& launch, const SharedLossScale& k) {
  shared_loss_scale_kernel<<<1, 1, 0, stream_of(launch)>>>(k);
  check_launch("shared_loss_scale");
}

void pack_totals(const Launch& launch, const PackTotals& k) {
  pack_totals_kernel<<<1, 1, 0, stream_of(launch)>>>(k);
  check_launch("pack_totals");
}

}  // namespace perceiver::kernels::cuda
