// What a file is, by how it begins: for messages about a file that was expected to be something else.
#pragma once

#include <string>
#include <string_view>

namespace perceiver {

/// First bytes that tell all that can be told.
inline constexpr size_t magic_bytes = 64;

/// "a PNG picture", "UTF-16 text", "text", "binary data" …; "empty" for no bytes. `head` is the start of the
/// file, a few hundred bytes at best.
std::string_view content_kind(std::string_view head);

/// What content that starts with `head` is, and how to read it: "is a JPEG picture, for data.type: image".
/// Empty if it is not known, as for text.
std::string name_content(std::string_view head);

}  // namespace perceiver
