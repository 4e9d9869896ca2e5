// Parts of pickles: what Python's pickler writes for a few values.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/support/zip_bytes.h"

namespace perceiver::testing {

inline std::string pickle_text(const std::string& text) {
  return "X" + little_endian(text.size(), 4) + text;
}
inline std::string pickle_bytes(const std::string& bytes) {
  return "B" + little_endian(bytes.size(), 4) + bytes;
}
inline std::string pickle_number(int64_t number) {
  return "\x8a\x08" + little_endian(static_cast<uint64_t>(number), 8);
}
inline std::string pickle_global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string pickle_tuple(const std::vector<std::string>& items) {
  std::string result = "(";
  for (const std::string& item : items) result += item;
  return result + "t";
}
inline std::string pickle_numbers(const std::vector<int64_t>& numbers) {
  std::vector<std::string> items;
  for (const int64_t number : numbers) items.push_back(pickle_number(number));
  return pickle_tuple(items);
}
inline std::string pickle_call(const std::string& module, const std::string& name,
                               const std::vector<std::string>& arguments) {
  return pickle_global(module, name) + pickle_tuple(arguments) + "R";
}
inline std::string pickle_dict(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string result = "}(";
  for (const auto& [key, value] : entries) result += pickle_text(key) + value;
  return result + "u";
}
inline std::string whole_pickle(const std::string& value) {
  return "\x80\x02" + value + ".";
}

/// A storage of torch.save.
inline std::string pickle_storage(const std::string& type, const std::string& key, int64_t count) {
  return pickle_tuple({pickle_text("storage"), pickle_global("torch", type), pickle_text(key),
                       pickle_text("cpu"), pickle_number(count)}) +
         "Q";
}
inline std::string pickle_tensor(const std::string& storage, int64_t offset,
                                 const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  return pickle_call("torch._utils", "_rebuild_tensor_v2",
                     {storage, pickle_number(offset), pickle_numbers(shape), pickle_numbers(strides), "\x89",
                      pickle_global("collections", "OrderedDict") + ")R"});
}

}  // namespace perceiver::testing
