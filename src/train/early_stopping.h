// When to give up hope of a better validation.
#pragma once

#include <cstdint>
#include <optional>

namespace perceiver {

/// Counts validations without a better loss; part of a run's state.
struct Patience {
  std::optional<double> reference;  ///< the loss to improve on, nats per target; none before the first
  int64_t validations = 0;          ///< in a row that did not

  /// A loss is better if it is lower than the reference by more than `delta`; one that is not finite never
  /// is.
  void add(double loss, double delta) {
    const bool better = loss - loss == 0 && (!reference || loss < *reference - delta);
    if (better) reference = loss;
    validations = better ? 0 : validations + 1;
  }
};

}  // namespace perceiver
