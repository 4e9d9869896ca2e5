// Recognises tensors in the pickle of a torch file: calls of torch._utils._rebuild_tensor_v2 and its like on
// a storage that is named by a key.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "io/pickle.h"
#include "io/strided_array.h"

namespace perceiver {

/// The bytes of one storage of the file.
struct TorchStorage {
  uint64_t bytes = 0;
  std::span<const std::byte> data;  ///< unless `entry` is set
  const ZipEntry* entry = nullptr;  ///< compressed
};

using TorchStorages = std::map<std::string, TorchStorage, std::less<>>;

/// A storage as the pickle names it.
struct TorchStorageId {
  std::string_view key;
  std::string_view type;  ///< "FloatStorage", "UntypedStorage", …
  int64_t count = 0;      ///< elements
};

std::optional<TorchStorageId> read_torch_storage_id(const PickleValue& value);

/// Bytes per element, 0 for an unknown type.
size_t torch_storage_element_size(std::string_view type);

/// The tensor or parameter that `value` is, or nothing. Its `fault` is set if it is one that cannot be read.
std::optional<StoredArray> read_torch_tensor(const PickleValue& value, const TorchStorages& storages);

/// The numbers of a tuple, list or torch.Size; nothing if there is anything else in it.
std::optional<std::vector<int64_t>> read_integers(const PickleValue& value);

}  // namespace perceiver
