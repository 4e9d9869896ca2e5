// Tensors in safetensors files (https://github.com/huggingface/safetensors), which other programs read too.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "perceiver/experimental/tensor.h"
#include "perceiver/export.h"

namespace perceiver {

/// Writes tensors of any device, dtype and shape as one file, with a checksum: under a temporary name, then
/// renamed, so that `path` is complete or untouched. Waits for work on the tensors. `metadata`: UTF-8. Throws
/// `user` for tensors of the same name or without a value, `failure` if the disk does not take it.
PERCEIVER_API void write_tensors(const std::filesystem::path& path, std::span<const NamedTensor> tensors,
                                 const std::map<std::string, std::string>& metadata = {});

/// Reads the values of `tensors` (f32, f64 or bf16), each from the tensor of its name in the file, whose
/// shape must be the same; f32 and f64 are converted into each other, other dtypes must agree. Other tensors
/// of the file are ignored. Returns the metadata. Throws `user` if there is no such file, it is damaged or
/// no safetensors file, or a tensor is missing or does not fit: then none of `tensors` has changed.
PERCEIVER_API std::map<std::string, std::string> read_tensors(const std::filesystem::path& path,
                                                              std::span<const NamedTensor> tensors);

}  // namespace perceiver
