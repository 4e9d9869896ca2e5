// The library's version.
#pragma once

namespace perceiver {

inline constexpr const char* version = "0.1.0";

}  // namespace perceiver
