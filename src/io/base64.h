// Base64 (RFC 4648, section 4) for binary data in JSON metadata.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace perceiver {

std::string to_base64(std::string_view bytes);
/// The bytes, or nothing if the text is not what to_base64 writes.
std::optional<std::string> from_base64(std::string_view text);

}  // namespace perceiver
