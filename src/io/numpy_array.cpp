#include "io/numpy_array.h"

#include <algorithm>
#include <string>

#include "base/check.h"
#include "base/text.h"
#include "io/torch_tensor.h"

namespace perceiver {
namespace {

using Items = std::vector<const PickleValue*>;

/// What describes an array, wherever it stands in the pickle.
struct Description {
  const PickleValue* shape;
  const PickleValue* dtype;
  bool column_major;
  const PickleValue* data;
};

/// NumPy 2 renamed numpy.core.
bool is_numpy(const PickleValue& function, std::string_view module, std::string_view name) {
  return function.is_global(fmt::format("numpy.core.{}", module), name) ||
         function.is_global(fmt::format("numpy._core.{}", module), name);
}

/// The function has moved between jax's modules.
bool is_jax_array(const PickleValue& function) {
  return function.kind == PickleKind::global && function.text.starts_with("jax") &&
         (function.name == "_reconstruct_array" || function.name == "reconstruct_device_array" ||
          function.name == "_reconstruct_device_array");
}

/// ndarray.__setstate__: (version,) shape, dtype, whether it is column-major, data.
std::optional<Description> describe_state(const PickleValue* state) {
  if (state == nullptr || state->kind != PickleKind::tuple) return {};
  const Items& items = state->items;
  if (items.size() < 4 || items.size() > 5) return {};
  const size_t first = items.size() - 4;
  return Description{items[first], items[first + 1], items[first + 2]->integer != 0, items[first + 3]};
}

std::optional<Description> describe(const PickleValue& value) {
  if (value.kind != PickleKind::object) return {};
  const Items& arguments = value.arguments->items;
  if (is_numpy(*value.callable, "multiarray", "_reconstruct")) return describe_state(value.state);
  if (is_jax_array(*value.callable) && arguments.size() >= 3) return describe_state(arguments[2]);
  // buffer, dtype, shape, order
  if (is_numpy(*value.callable, "numeric", "_frombuffer") && arguments.size() == 4)
    return Description{arguments[2], arguments[1], arguments[3]->text == "F", arguments[0]};
  return {};
}

struct NumpyDtype {
  std::string_view name;
  std::string_view dtype;
};

constexpr NumpyDtype numpy_dtypes[] = {
    {"f8", "F64"}, {"f4", "F32"}, {"f2", "F16"},  {"bfloat16", "BF16"}, {"i8", "I64"},
    {"i4", "I32"}, {"i2", "I16"}, {"i1", "I8"},   {"u8", "U64"},        {"u4", "U32"},
    {"u2", "U16"}, {"u1", "U8"},  {"b1", "BOOL"},
};

/// numpy.dtype called with "f4" and the like, or with a class, such as ml_dtypes.bfloat16. Empty if unknown.
std::string_view read_dtype(const PickleValue& value) {
  if (value.kind != PickleKind::object || !value.callable->is_global("numpy", "dtype")) return "";
  const Items& arguments = value.arguments->items;
  if (arguments.empty()) return "";
  const PickleValue& type = *arguments[0];
  const std::string_view wanted = type.kind == PickleKind::global ? type.name : type.text;
  for (const auto& [name, dtype] : numpy_dtypes)
    if (name == wanted) return dtype;
  return "";
}

/// dtype.__setstate__: version, byte order, …
bool is_big_endian(const PickleValue& dtype) {
  const PickleValue* state = dtype.state;
  return state != nullptr && state->items.size() > 1 && state->items[1]->text == ">";
}

std::span<const std::byte> text_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

std::optional<std::span<const std::byte>> read_bytes(const PickleValue& value, LatinBytes& latin) {
  if (value.kind == PickleKind::bytes || value.kind == PickleKind::string) return text_bytes(value.text);
  if (value.kind != PickleKind::object) return {};
  const Items& arguments = value.arguments->items;
  if (value.callable->name == "bytes" && arguments.empty()) return std::span<const std::byte>();
  if (value.callable->is_global("_codecs", "encode") && !arguments.empty())
    return latin.decode(arguments[0]->text);
  return {};
}

}  // namespace

std::optional<std::span<const std::byte>> LatinBytes::decode(std::string_view string) {
  const auto [found, added] = decoded_.try_emplace({string.data(), string.size()});
  std::vector<std::byte>& bytes = found->second;
  if (!added) return bytes;
  for (size_t i = 0; i < string.size(); ++i) {
    unsigned character = static_cast<uint8_t>(string[i]);
    // Up to 255: one byte, or C2 or C3 and another.
    if (character >= 0x80) {
      if ((character & 0xFE) != 0xC2 || ++i == string.size()) return {};
      character = (character & 3) << 6 | (static_cast<uint8_t>(string[i]) & 0x3F);
    }
    bytes.push_back(static_cast<std::byte>(character));
  }
  return bytes;
}

std::optional<StoredArray> read_numpy_array(const PickleValue& value, LatinBytes& latin) {
  const std::optional<Description> description = describe(value);
  if (!description) return {};
  StridedArray layout;
  layout.dtype = read_dtype(*description->dtype);
  if (layout.dtype.empty()) return {};
  if (is_big_endian(*description->dtype)) return unreadable_array("is big-endian, which is not read");
  std::optional<std::vector<int64_t>> shape = read_integers(*description->shape);
  const std::optional<std::span<const std::byte>> data = read_bytes(*description->data, latin);
  if (!shape || !data) return unreadable_array("has a shape or data of an unknown kind");
  layout.shape = std::move(*shape);
  layout.strides =
      description->column_major ? column_major_strides(layout.shape) : row_major_strides(layout.shape);
  StoredArray array;
  array.fault = array_fault(layout, data->size());
  array.layout = std::move(layout);
  array.storage_bytes = data->size();
  array.storage = *data;
  return array;
}

}  // namespace perceiver
