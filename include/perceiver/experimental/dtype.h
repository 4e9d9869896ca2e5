// Element types and devices.
// Unstable: may change with any version (docs/experimental.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace perceiver {

/// e4m3: floating point of eight bits, 3 of them of mantissa, up to 448, without infinity; of weights and KV
/// caches alone.
enum class DType : uint8_t { f32, f64, bf16, i32, u8, i8, e4m3 };

constexpr size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 8;
    case DType::f32:
    case DType::i32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::u8:
    case DType::i8:
    case DType::e4m3:
      return 1;
  }
  return 0;
}

constexpr std::string_view name_of(DType dtype) {
  constexpr std::string_view names[] = {"f32", "f64", "bf16", "i32", "u8", "i8", "e4m3"};
  return names[static_cast<size_t>(dtype)];
}

template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::u8;
};
template <>
struct DTypeOf<int8_t> {
  static constexpr DType value = DType::i8;
};

/// The type of statistics, losses and parameter gradients for a compute type.
constexpr DType accumulation_type(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

enum class DeviceKind : uint8_t { cpu, cuda };

struct Device {
  DeviceKind kind = DeviceKind::cpu;
  int index = 0;
  bool operator==(const Device&) const = default;
};

}  // namespace perceiver
