#include "data/document_weights.h"

#include <algorithm>

namespace perceiver {

int64_t WeightTable::find(uint64_t drawn) const {
  return std::upper_bound(ends_.begin(), ends_.end(), drawn) - ends_.begin();
}

}  // namespace perceiver
