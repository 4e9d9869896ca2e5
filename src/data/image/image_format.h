// What a picture file is, judging by its first bytes.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace perceiver {

enum class ImageFormat { png, jpeg, other };

ImageFormat image_format(std::span<const std::byte> file);

/// Why a file of another format is not read, and the command that converts it if it is a known one, e.g. "is
/// a WebP picture, which is not read; convert it: dwebp in.webp -o out.png".
std::string describe_other_image(std::span<const std::byte> file);

}  // namespace perceiver
