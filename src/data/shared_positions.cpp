#include "data/shared_positions.h"

#include <algorithm>

namespace perceiver {

void copy_shared_positions(const SequenceFormat& format, int64_t first, int64_t count, int32_t* out) {
  const int64_t known = static_cast<int64_t>(format.shared_positions.size()) / format.axes;
  for (int64_t i = first; i < first + count; ++i, out += format.axes) {
    if (i < known) {
      std::copy_n(format.shared_positions.begin() + i * format.axes, format.axes, out);
    } else {
      std::fill_n(out, format.axes, 1);
    }
  }
}

}  // namespace perceiver
