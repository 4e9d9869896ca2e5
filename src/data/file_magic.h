// Names what a file is by its first bytes.
#pragma once

#include <string>
#include <string_view>

namespace perceiver {

/// First bytes that `name_content` looks at.
inline constexpr size_t magic_bytes = 64;

/// What content with these first bytes is, and what to do to read it: "is a JPEG picture (data.type: image)".
/// Empty if it is not known, as for text.
std::string name_content(std::string_view first_bytes);

}  // namespace perceiver
