#include "port/tensor_map.h"

#include <algorithm>

#include "base/check.h"

namespace perceiver {
namespace {

/// Calls visit(element of ours, element of theirs), or a negative row's code instead of the latter.
template <typename Visit>
void each_element(const TensorMap& map, const Shape& ours, const Visit& visit) {
  const int64_t rows = ours[0], columns = rows == 0 ? 0 : ours.elements() / rows;
  const int64_t their_rows = map.their_rows > 0 ? map.their_rows : rows;
  PERCEIVER_ASSERT(map.rows.empty() || static_cast<int64_t>(map.rows.size()) == rows);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t row = map.rows.empty() ? r : map.rows[static_cast<size_t>(r)];
    PERCEIVER_ASSERT(row < their_rows);
    for (int64_t c = 0; c < columns; ++c) {
      const int64_t element = map.transposed ? c * their_rows + row : row * columns + c;
      visit(static_cast<size_t>(r * columns + c), row < 0 ? row : element);
    }
  }
}

}  // namespace

std::vector<int64_t> their_shape(const TensorMap& map, const Shape& ours) {
  std::vector<int64_t> shape = ours.vector();
  if (map.their_rows > 0) shape[0] = map.their_rows;
  if (map.transposed) std::reverse(shape.begin(), shape.end());
  return shape;
}

std::vector<double> gather(const TensorMap& map, const Shape& ours, const std::vector<double>& theirs) {
  std::vector<double> values(static_cast<size_t>(ours.elements()), 0.0);
  each_element(map, ours, [&](size_t mine, int64_t element) {
    if (element >= 0) values[mine] = theirs.at(static_cast<size_t>(element));
    if (element == kNeverRow) values[mine] = kNeverLogit;
  });
  return values;
}

void scatter(const TensorMap& map, const Shape& ours, const std::vector<double>& values,
             std::vector<double>& theirs) {
  each_element(map, ours, [&](size_t mine, int64_t element) {
    if (element >= 0) theirs.at(static_cast<size_t>(element)) = values[mine];
  });
}

}  // namespace perceiver
