#include "io/torch_tensor.h"

#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "io/safetensors.h"

namespace perceiver {
namespace {

using Names = std::pair<std::string_view, std::string_view>;

constexpr Names storage_types[] = {
    {"DoubleStorage", "F64"}, {"FloatStorage", "F32"}, {"HalfStorage", "F16"},   {"BFloat16Storage", "BF16"},
    {"LongStorage", "I64"},   {"IntStorage", "I32"},   {"ShortStorage", "I16"},  {"CharStorage", "I8"},
    {"ByteStorage", "U8"},    {"BoolStorage", "BOOL"}, {"UntypedStorage", "U8"},
};

constexpr Names torch_dtypes[] = {
    {"float64", "F64"},         {"float32", "F32"},
    {"float16", "F16"},         {"bfloat16", "BF16"},
    {"int64", "I64"},           {"int32", "I32"},
    {"int16", "I16"},           {"int8", "I8"},
    {"uint64", "U64"},          {"uint32", "U32"},
    {"uint16", "U16"},          {"uint8", "U8"},
    {"bool", "BOOL"},           {"float8_e4m3fn", "F8_E4M3"},
    {"float8_e5m2", "F8_E5M2"},
};

template <size_t N>
std::string_view look_up(const Names (&names)[N], std::string_view wanted) {
  for (const auto& [name, dtype] : names)
    if (name == wanted) return dtype;
  return "";
}

/// A function of torch and what it is called with.
struct Call {
  const PickleValue* function;
  const std::vector<const PickleValue*>* arguments;

  bool is(std::string_view module, std::string_view name, size_t least_arguments) const {
    return function->is_global(module, name) && arguments->size() >= least_arguments;
  }
};

bool is_parameter(const Call& call) {
  return call.is("torch._utils", "_rebuild_parameter", 1) ||
         call.is("torch._utils", "_rebuild_parameter_with_state", 1);
}

/// The call that makes the tensor itself: a parameter and a tensor with attributes are made from one.
std::optional<Call> innermost_call(const PickleValue& value) {
  constexpr int most_wrappers = 8;
  if (value.kind != PickleKind::object) return {};
  Call call{value.callable, &value.arguments->items};
  for (int depth = 0; depth < most_wrappers; ++depth) {
    if (is_parameter(call)) {
      const PickleValue* data = (*call.arguments)[0];
      if (data->kind != PickleKind::object) return {};
      call = {data->callable, &data->arguments->items};
    } else if (call.is("torch._tensor", "_rebuild_from_type_v2", 3)) {
      const auto& arguments = *call.arguments;
      if (arguments[2]->kind != PickleKind::tuple) return {};
      call = {arguments[0], &arguments[2]->items};
    } else {
      return call;
    }
  }
  return {};
}

/// The dtype of version 3 is an argument, otherwise it is that of the storage; empty if unknown.
std::string_view tensor_dtype(const Call& call, const TorchStorageId& storage) {
  if (!call.is("torch._utils", "_rebuild_tensor_v3", 7)) return look_up(storage_types, storage.type);
  const PickleValue& dtype = *(*call.arguments)[6];
  const bool known = dtype.kind == PickleKind::global && dtype.text == "torch";
  return known ? look_up(torch_dtypes, dtype.name) : "";
}

StoredArray place_in_storage(StridedArray layout, const TorchStorageId& id, const TorchStorages& storages) {
  const auto found = storages.find(id.key);
  if (found == storages.end())
    return unreadable_array(fmt::format("has the storage {}, which the file lacks", quote(id.key)));
  const TorchStorage& storage = found->second;
  int64_t bytes = 0;
  const int64_t element_size = static_cast<int64_t>(torch_storage_element_size(id.type));
  if (id.count < 0 || __builtin_mul_overflow(id.count, element_size, &bytes) ||
      static_cast<uint64_t>(bytes) > storage.bytes)
    return unreadable_array(
        fmt::format("has a storage of {} elements, but of its bytes there are {}", id.count, storage.bytes));
  StoredArray array;
  array.fault = array_fault(layout, static_cast<uint64_t>(bytes));
  array.layout = std::move(layout);
  array.storage_bytes = static_cast<uint64_t>(bytes);
  array.storage = storage.data;
  array.entry = storage.entry;
  return array;
}

/// Of a call with storage, offset, size, stride.
std::optional<StoredArray> rebuild(const Call& call, const TorchStorages& storages) {
  const auto& arguments = *call.arguments;
  const PickleValue& storage = *arguments[0];
  if (storage.kind == PickleKind::object && storage.callable->is_global("torch.storage", "_load_from_bytes"))
    return unreadable_array(
        "was saved with pickle alone; load the file in Python and save it with torch.save");
  const std::optional<TorchStorageId> id = read_torch_storage_id(storage);
  if (!id) return unreadable_array("has a storage of an unknown kind");
  StridedArray layout;
  layout.dtype = tensor_dtype(call, *id);
  if (layout.dtype.empty()) return {};
  std::optional<std::vector<int64_t>> shape = read_integers(*arguments[2]);
  std::optional<std::vector<int64_t>> strides = read_integers(*arguments[3]);
  if (arguments[1]->kind != PickleKind::integer || !shape || !strides)
    return unreadable_array("has an offset, a shape or strides that are no numbers");
  layout.offset = arguments[1]->integer;
  layout.shape = std::move(*shape);
  layout.strides = std::move(*strides);
  return place_in_storage(std::move(layout), *id, storages);
}

/// What torch.Size is made from, for any other value itself.
const PickleValue& plain_sequence(const PickleValue& value) {
  const bool is_size = value.kind == PickleKind::object && value.callable->is_global("torch", "Size");
  return is_size && value.arguments->items.size() == 1 ? *value.arguments->items[0] : value;
}

}  // namespace

std::optional<std::vector<int64_t>> read_integers(const PickleValue& value) {
  const PickleValue& sequence = plain_sequence(value);
  if (sequence.kind != PickleKind::tuple && sequence.kind != PickleKind::list) return {};
  if (sequence.items.size() > safetensors_max_rank) return {};
  std::vector<int64_t> numbers;
  for (const PickleValue* item : sequence.items) {
    if (item->kind != PickleKind::integer) return {};
    numbers.push_back(item->integer);
  }
  return numbers;
}

size_t torch_storage_element_size(std::string_view type) {
  return safetensors_dtype_size(look_up(storage_types, type));
}

std::optional<TorchStorageId> read_torch_storage_id(const PickleValue& value) {
  if (value.kind != PickleKind::persistent || value.arguments->kind != PickleKind::tuple) return {};
  // ("storage", type, key, device, elements), in old files also None or the view of another storage that it
  // is.
  const auto& id = value.arguments->items;
  if (id.size() < 5 || id.size() > 6 || id[0]->text != "storage") return {};
  if (id.size() == 6 && id[5]->kind != PickleKind::none) return {};
  if (id[1]->kind != PickleKind::global || id[2]->kind != PickleKind::string ||
      id[4]->kind != PickleKind::integer)
    return {};
  return TorchStorageId{id[2]->text, id[1]->name, id[4]->integer};
}

std::optional<StoredArray> read_torch_tensor(const PickleValue& value, const TorchStorages& storages) {
  const std::optional<Call> call = innermost_call(value);
  if (!call) return {};
  const bool known = call->is("torch._utils", "_rebuild_tensor", 4) ||
                     call->is("torch._utils", "_rebuild_tensor_v2", 4) ||
                     call->is("torch._utils", "_rebuild_tensor_v3", 7);
  if (!known) return {};
  return rebuild(*call, storages);
}

}  // namespace perceiver
