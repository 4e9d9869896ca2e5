// Writes images as PNG files.
#pragma once

#include <span>
#include <string>

#include "perceiver/media.h"

namespace perceiver {

/// The bytes of a PNG file of a grey (1 channel) or RGB (3) image, 8 bits per sample.
std::string write_png(const Image& image);

/// Arranges images of one size and colour type in rows of ⌈√n⌉, from the top left, separated by white lines
/// of `gap` pixels; unused places are white. Throws `user` if there are no images or they differ in size or
/// channels.
Image image_grid(std::span<const Image> images, int64_t gap = 2);

}  // namespace perceiver
