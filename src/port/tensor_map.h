// Where the values of a parameter come from in another implementation's files. All differences between
// layouts are a choice of rows (ids in another order, heads' channels in another order, a part of a packed
// weight, a table that starts at another position) and a transposition, so that one table serves import,
// export and gradients.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "perceiver/experimental/tensor.h"

namespace perceiver {

/// Rows of a parameter that no tensor of theirs has.
inline constexpr int64_t kZeroRow = -1;
/// Of the last layer's bias, for ids that do not exist there: the logit kNeverLogit.
inline constexpr int64_t kNeverRow = -2;
/// Far below what rounds into a probability of float32, and still trainable.
inline constexpr double kNeverLogit = -50;

struct TensorMap {
  std::string ours;             ///< the parameter
  std::string theirs;           ///< their tensor; empty: none, `rows` has no row of theirs
  bool transposed = false;      ///< theirs is [in, out]
  std::vector<int64_t> rows{};  ///< of each of our rows, in theirs, or kZeroRow, kNeverRow; empty: the same
  int64_t their_rows = 0;       ///< of their tensor (its columns if transposed); 0: as many as ours
};

/// The shape of their tensor, given that of our parameter.
std::vector<int64_t> their_shape(const TensorMap& map, const Shape& ours);

/// Our parameter of shape `ours` made of their values, row-major of their_shape.
std::vector<double> gather(const TensorMap& map, const Shape& ours, const std::vector<double>& theirs);

/// The way back: writes our values to those rows of theirs that the map names; the rest stays.
void scatter(const TensorMap& map, const Shape& ours, const std::vector<double>& values,
             std::vector<double>& theirs);

}  // namespace perceiver
