// Options that are lists of whole numbers.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/modality.h"

namespace perceiver {

/// The numbers of an option such as "1024,1024,512", at most `most` of them, each from min to max; none for
/// an empty text. Throws `user` for anything else.
std::vector<int64_t> number_list(const ModalityOptions& options, std::string_view name, size_t most,
                                 int64_t min, int64_t max);

}  // namespace perceiver
