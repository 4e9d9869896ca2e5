#include "kernels/ranks.h"

#include <algorithm>

namespace perceiver::kernels::cpu {

void shared_loss_scale(const SharedLossScale& k) {
  k.scalars->loss_scale = k.mean ? 1 / std::max(1.0, *k.targets) : 1 / k.sharing;
}

void pack_totals(const PackTotals& k) {
  std::copy_n(k.loss_totals, 5, k.totals);
  k.totals[5] = 0;
  for (int64_t i = 0; i < k.count; ++i) k.totals[5] += k.squared_norms[i];
}

}  // namespace perceiver::kernels::cpu
