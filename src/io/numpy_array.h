// Recognises arrays in a pickle of NumPy or JAX arrays.
#pragma once

#include <map>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "io/pickle.h"
#include "io/strided_array.h"

namespace perceiver {

/// Bytes that protocol 2, which has no type for them, writes as a string with one character each (Latin-1).
/// Each string is decoded once, however many arrays share it.
class LatinBytes {
 public:
  /// The bytes of a UTF-8 `string`, or nothing if it has characters above 255. They live as long as this
  /// object and `string`.
  std::optional<std::span<const std::byte>> decode(std::string_view string);

 private:
  std::map<std::pair<const char*, size_t>, std::vector<std::byte>> decoded_;
};

/// The array that `value` is, or nothing; its `fault` is set if it is one that cannot be read. The array's
/// bytes are those of the pickle, or of `latin`.
std::optional<StoredArray> read_numpy_array(const PickleValue& value, LatinBytes& latin);

}  // namespace perceiver
