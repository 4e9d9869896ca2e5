// Softmax cross-entropy with label smoothing and z-loss (docs/model.md, "Training"), and the sums over rows.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/parallel.h"
#include "kernels/cpu/row.h"
#include "kernels/loss.h"

namespace perceiver::kernels::cpu {
namespace {

struct Smoothing {
  double on, off, normalizer;
};

/// Soft targets: `on` for the target, `off` for every other id; `normalizer` makes the loss of a perfect
/// prediction 0.
Smoothing smoothing(double amount, int64_t vocabulary) {
  const double others = static_cast<double>(vocabulary - 1);
  const double on = 1 - amount, off = amount / others;
  const double off_entropy = off > 0 ? others * off * std::log(off) : 0;
  return {on, off, -(on * std::log(on) + off_entropy)};
}

template <typename T>
void row_loss(const CrossEntropy& k, const Smoothing& soft, int64_t r) {
  const int64_t target = k.targets[r];
  T* row = static_cast<T*>(k.logits) + r * k.stride;
  Row<T> logits(row, k.vocabulary);
  if (k.gradient_scale != nullptr) std::fill(row + k.vocabulary, row + k.stride, T(0));
  T nll = 0, loss = 0, z = 0;
  bool correct = false;
  if (target == 0) {
    if (k.gradient_scale != nullptr) logits.setZero();
  } else {
    Eigen::Index best = 0;
    const T largest = logits.maxCoeff(&best);
    const T chosen = logits[target];
    const T mean_logit = logits.mean();
    const T sum = (logits - largest).exp().sum();
    const T log_z = largest + std::log(sum);
    correct = best == target;
    nll = log_z - chosen;
    z = static_cast<T>(k.z_loss) * log_z * log_z;
    const T others = log_z * T(k.vocabulary - 1) - (mean_logit * T(k.vocabulary) - chosen);
    loss = static_cast<T>(soft.on) * nll + static_cast<T>(soft.off) * others -
           static_cast<T>(soft.normalizer) + z;
    if (k.gradient_scale != nullptr) {
      const T scale = static_cast<T>(*k.gradient_scale);
      const T weight = scale * (T(1) + T(2) * static_cast<T>(k.z_loss) * log_z);
      logits = weight * (logits - log_z).exp() - scale * static_cast<T>(soft.off);
      logits[target] -= scale * static_cast<T>(soft.on - soft.off);
    }
  }
  if (k.nll != nullptr) static_cast<T*>(k.nll)[r] = nll;
  if (k.loss != nullptr) static_cast<T*>(k.loss)[r] = loss;
  if (k.z != nullptr) static_cast<T*>(k.z)[r] = z;
  if (k.correct != nullptr) k.correct[r] = correct;
}

template <typename T>
void sum_rows(const LossTotals& k) {
  double sums[5] = {};
  for (int64_t r = 0; r < k.rows; ++r) {
    sums[0] += static_cast<double>(static_cast<const T*>(k.loss)[r]);
    sums[1] += static_cast<double>(static_cast<const T*>(k.nll)[r]);
    sums[2] += static_cast<double>(static_cast<const T*>(k.z)[r]);
    sums[3] += k.correct[r];
    sums[4] += k.targets[r] != 0;
  }
  for (int i = 0; i < 5; ++i) k.totals[i] = sums[i] + (k.accumulate ? k.totals[i] : 0);
}

}  // namespace

void cross_entropy(const CrossEntropy& k) {
  const Smoothing soft = smoothing(k.label_smoothing, k.vocabulary);
  with_type(k.type, [&]<typename T>() {
    parallel_for(k.rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) row_loss<T>(k, soft, r);
    });
  });
}

void loss_totals(const LossTotals& k) {
  with_type(k.type, [&]<typename T>() { sum_rows<T>(k); });
}

}  // namespace perceiver::kernels::cpu
