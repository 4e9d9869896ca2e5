// Finds the arrays in a pickle and names them by their paths.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "io/pickle.h"
#include "io/strided_array.h"

namespace perceiver {

/// The array that a value is, or nothing.
using ReadArray = std::function<std::optional<StoredArray>(const PickleValue&)>;
/// Gets each array with its name; a name may come again.
using TakeArray = std::function<void(std::string name, StoredArray array)>;

/// Visits dicts, lists, tuples and objects that hold entries, depth first, to the bounds of TorchFile; a
/// value inside itself is stepped over. Throws `user` if there are more values, or more bytes of names.
void walk_arrays(const PickleValue& root, const std::string& source, const ReadArray& read,
                 const TakeArray& take);

}  // namespace perceiver
