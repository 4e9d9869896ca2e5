// The ids that every vocabulary starts with.
#pragma once

#include <cstdint>

namespace perceiver {

inline constexpr int32_t pad_token = 0;       ///< fills rows; never predicted
inline constexpr int32_t eos_token = 1;       ///< ends a document
inline constexpr int32_t sos_token = 2;       ///< starts every sequence
inline constexpr int32_t special_tokens = 3;  ///< how many there are; data ids start here

}  // namespace perceiver
