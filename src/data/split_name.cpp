#include "data/dataset.h"

namespace perceiver {

std::string_view split_name(Split split) {
  constexpr std::string_view names[split_count] = {"train", "validation", "test"};
  return names[static_cast<int>(split)];
}

}  // namespace perceiver
