// The options of modality image that determine the picture and the sequence.
#pragma once

#include <cstdint>
#include <vector>

#include "data/image/image_reader.h"
#include "data/image/image_tokens.h"
#include "data/modality_options.h"

namespace perceiver {

/// From the options size, colour and ids.
ImageShape read_image_shape(const ModalityOptions& options);

/// The options background and orientation.
ImageReading read_image_reading(const ModalityOptions& options);

/// The option order.
ImageOrder read_image_order_kind(const ModalityOptions& options);

/// The permutation that the options order, order_seed and order_file select; reads that file. Throws `user`
/// if it is given without order: user, or missing with it.
std::vector<int32_t> read_image_order(const ModalityOptions& options, const ImageShape& shape);

}  // namespace perceiver
