// Tensors of a safetensors file, into tensors of this library.
#pragma once

#include <string>

#include "io/safetensors.h"
#include "perceiver/experimental/tensor.h"

namespace perceiver {

/// Throws `user` unless `file` has a tensor `name` of `shape` that read_tensor can convert to `type`.
void check_tensor(const SafetensorsFile& file, const std::string& name, const Shape& shape, DType type);

/// Copies the tensor `name` of `file` into `target` of the same number of elements: of the same dtype,
/// converted between F32 and F64, or from I8 or F8_E4M3 with a scale for each row; throws `user` if it is
/// missing or its shape is not `shape`.
void read_tensor(const SafetensorsFile& file, const std::string& name, const Shape& shape,
                 const Tensor& target);

/// The tensor with the scales (F32 [rows]) of the I8 or F8_E4M3 tensor `name`.
std::string scale_name(const std::string& name);
/// Whether `name` is that of the scales of such a tensor in `file`.
bool is_scale(const SafetensorsFile& file, const std::string& name);

/// The dtype's name in such files, e.g. "F32".
std::string file_dtype(DType type);

}  // namespace perceiver
