// What a file is, by how it begins: for messages about a file that was expected to be something else.
#pragma once

#include <string_view>

namespace perceiver {

/// "a PNG image", "a gzip archive", "UTF-16 text", "text", "binary data" …; "empty" for no bytes. `head` is
/// the start of the file, a few hundred bytes at best.
std::string_view content_kind(std::string_view head);

}  // namespace perceiver
