// Pictures as PNG files.
#pragma once

#include <span>
#include <string>

#include "data/image/image.h"

namespace perceiver {

/// The bytes of a PNG file of a grey (1 channel) or RGB (3) picture, 8 bits a sample.
std::string write_png(const Image& image);

/// Pictures of one size and colour side by side, in rows of ⌈√n⌉, from the left and the top, white lines of
/// `gap` pixels between them; places left over are white. Throws `user` if there is none or they differ.
Image image_grid(std::span<const Image> images, int64_t gap = 2);

}  // namespace perceiver
