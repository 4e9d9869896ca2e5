// The ids that every vocabulary starts with.
#pragma once

#include <cstdint>

namespace perceiver {

inline constexpr int32_t pad_token = 0;
inline constexpr int32_t eos_token = 1;
inline constexpr int32_t sos_token = 2;
inline constexpr int32_t special_tokens = 3;  ///< how many there are; data ids start here

}  // namespace perceiver
