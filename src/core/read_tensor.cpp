#include "core/read_tensor.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "base/check.h"
#include "kernels/dequantize.h"

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

bool is_real(DType type) {
  return type == DType::f32 || type == DType::f64;
}

/// The type of weights of eight bits that have a scale for each row.
std::optional<DType> narrow_type(const SafetensorsEntry& entry) {
  if (entry.shape.empty()) return std::nullopt;
  for (const DType type : {DType::i8, DType::e4m3})
    if (entry.dtype == file_dtype(type)) return type;
  return std::nullopt;
}

/// A file from elsewhere may hold codes that are no numbers.
void check_numbers(const SafetensorsFile& file, const SafetensorsEntry& entry) {
  const auto is_number = [](std::byte code) { return (code & std::byte{0x7f}) != std::byte{0x7f}; };
  const std::span<const std::byte> codes = file.bytes(entry);
  if (entry.dtype == file_dtype(DType::e4m3) && !std::all_of(codes.begin(), codes.end(), is_number))
    throw_user("{}: tensor {} holds codes that are no numbers", file.source(), entry.name);
}

/// Numbers times the scale of their row.
template <typename To>
void dequantize(const SafetensorsFile& file, const SafetensorsEntry& entry, const Tensor& target) {
  check_numbers(file, entry);
  const std::span<const std::byte> scale_bytes = file.bytes(*file.find(scale_name(entry.name)));
  std::vector<float> scale(scale_bytes.size() / sizeof(float));
  std::memcpy(scale.data(), scale_bytes.data(), scale_bytes.size());
  const std::span<const std::byte> codes = file.bytes(entry);
  std::vector<To> values(codes.size());
  const int64_t rows = entry.shape[0];
  kernels::cpu::dequantize({.type = target.dtype(),
                            .weight_type = *narrow_type(entry),
                            .rows = rows,
                            .columns = static_cast<int64_t>(codes.size()) / std::max<int64_t>(1, rows),
                            .weight = codes.data(),
                            .scale = scale.data(),
                            .out = values.data()});
  target.copy_from_host(std::as_bytes(std::span<const To>(values)));
}

void check_scale(const SafetensorsFile& file, const SafetensorsEntry& entry) {
  const SafetensorsEntry* scale = file.find(scale_name(entry.name));
  if (scale == nullptr) throw_user("{}: tensor {} is missing", file.source(), scale_name(entry.name));
  if (scale->dtype != "F32" || scale->shape != std::vector<int64_t>{entry.shape[0]})
    throw_user("{}: tensor {} is {} [{}]; F32 [{}] is needed", file.source(), scale->name, scale->dtype,
               fmt::join(scale->shape, ", "), entry.shape[0]);
}

bool converts(const std::string& from, DType to) {
  return from == file_dtype(to) || ((from == "F32" || from == "F64") && is_real(to));
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
    case DType::i8:
      return "I8";
    case DType::e4m3:
      return "F8_E4M3";
  }
  throw_failure("internal error: unknown dtype {}", static_cast<int>(type));
}

std::string scale_name(const std::string& name) {
  return name + "_scale";
}

bool is_scale(const SafetensorsFile& file, const std::string& name) {
  const std::string suffix = scale_name("");
  if (!name.ends_with(suffix)) return false;
  const SafetensorsEntry* const of = file.find(name.substr(0, name.size() - suffix.size()));
  return of != nullptr && narrow_type(*of).has_value();
}

void check_tensor(const SafetensorsFile& file, const std::string& name, const Shape& shape, DType type) {
  const SafetensorsEntry* entry = file.find(name);
  if (entry == nullptr) throw_user("{}: tensor {} is missing", file.source(), name);
  if (entry->shape != shape.vector())
    throw_user("{}: tensor {} has shape [{}], but the model's is {}", file.source(), name,
               fmt::join(entry->shape, ", "), shape.text());
  if (is_real(type) && narrow_type(*entry)) return check_scale(file, *entry);
  if (converts(entry->dtype, type)) return;
  const bool real = is_real(type);
  throw_user("{}: tensor {} is {}; {} needed", file.source(), name, entry->dtype,
             real ? "F32 or F64 is" : file_dtype(type) + " is");
}

void read_tensor(const SafetensorsFile& file, const std::string& name, const Shape& shape,
                 const Tensor& target) {
  check_tensor(file, name, shape, target.dtype());
  const SafetensorsEntry& entry = *file.find(name);
  const std::span<const std::byte> bytes = file.bytes(entry);
  if (entry.dtype == file_dtype(target.dtype())) return target.copy_from_host(bytes);
  if (narrow_type(entry))
    return target.dtype() == DType::f64 ? dequantize<double>(file, entry, target)
                                        : dequantize<float>(file, entry, target);
  if (target.dtype() == DType::f64) return convert<float, double>(bytes, target);
  convert<double, float>(bytes, target);
}

}  // namespace perceiver
