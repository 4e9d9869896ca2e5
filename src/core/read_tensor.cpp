#include "core/read_tensor.h"

#include <cstring>
#include <vector>

#include "base/check.h"

namespace perceiver {
namespace {

template <typename From, typename To>
void convert(std::span<const std::byte> bytes, const Tensor& target) {
  std::vector<To> values(static_cast<size_t>(target.elements()));
  for (size_t i = 0; i < values.size(); ++i) {
    From value;
    std::memcpy(&value, bytes.data() + i * sizeof(From), sizeof(From));
    values[i] = static_cast<To>(value);
  }
  target.copy_from_host(std::as_bytes(std::span<const To>(values)));
}

bool converts(const std::string& from, DType to) {
  return from == file_dtype(to) ||
         ((from == "F32" || from == "F64") && (to == DType::f32 || to == DType::f64));
}

}  // namespace

std::string file_dtype(DType type) {
  switch (type) {
    case DType::f32:
      return "F32";
    case DType::f64:
      return "F64";
    case DType::bf16:
      return "BF16";
    case DType::i32:
      return "I32";
    case DType::u8:
      return "U8";
  }
  throw_failure("internal error: unknown dtype {}", static_cast<int>(type));
}

void check_tensor(const SafetensorsFile& file, const std::string& name, const Shape& shape, DType type) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) throw_user("{}: tensor {} is missing", file.source(), name);
  if (entry->shape != shape.vector())
    throw_user("{}: tensor {} has shape [{}], but the model's is {}", file.source(), name,
               fmt::join(entry->shape, ", "), shape.text());
  if (converts(entry->dtype, type)) return;
  const bool real = type == DType::f32 || type == DType::f64;
  throw_user("{}: tensor {} is {}; {} needed", file.source(), name, entry->dtype,
             real ? "F32 or F64 is" : file_dtype(type) + " is");
}

void read_tensor(const SafetensorsFile& file, const std::string& name, const Shape& shape,
                 const Tensor& target) {
  check_tensor(file, name, shape, target.dtype());
  const SafetensorsEntry& entry = *file.find(name);
  const std::span<const std::byte> bytes = file.bytes(entry);
  if (entry.dtype == file_dtype(target.dtype())) return target.copy_from_host(bytes);
  if (target.dtype() == DType::f64) return convert<float, double>(bytes, target);
  convert<double, float>(bytes, target);
}

}  // namespace perceiver
