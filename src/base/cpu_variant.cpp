#include "base/cpu_variant.h"

#include <algorithm>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/check.h"

namespace perceiver {
namespace {

/// The variant that the compiler's flags amount to.
constexpr CpuVariant compiled_for() {
#if defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  return CpuVariant::avx512;
#elif defined(__AVX2__) && defined(__FMA__)
  return CpuVariant::avx2;
#else
  return CpuVariant::baseline;
#endif
}

#ifdef PERCEIVER_CPU_DISPATCH
/// Processor and operating system; the flags are those of cmake/cpu_variants.cmake.
bool machine_has(CpuVariant variant) {
  __builtin_cpu_init();
  const auto avx2 = [] {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2");
  };
  const auto avx512 = [] {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
  };
  switch (variant) {
    case CpuVariant::avx512:
      return avx2() && avx512();
    case CpuVariant::avx2:
      return avx2();
    default:
      return true;
  }
}
#endif

std::vector<CpuVariant> find_variants() {
  std::vector<CpuVariant> variants{compiled_for()};
#ifdef PERCEIVER_CPU_DISPATCH
  for (const CpuVariant variant : {CpuVariant::avx2, CpuVariant::avx512})
    if (machine_has(variant)) variants.push_back(variant);
#endif
  return variants;
}

std::string names_of(const std::vector<CpuVariant>& variants) {
  std::string names;
  for (const CpuVariant variant : variants)
    names += (names.empty() ? "" : ", ") + std::string(name_of(variant));
  return names;
}

CpuVariant choose() {
  const char* const named = std::getenv("PERCEIVER_CPU");
  const std::vector<CpuVariant>& variants = cpu_variants();
  if (named == nullptr || *named == '\0') return variants.back();
  for (const CpuVariant variant : variants)
    if (std::string_view(named) == name_of(variant)) return variant;
  throw_user("PERCEIVER_CPU={}: this build has no such kernels for this machine; it has {}", named,
             names_of(variants));
}

}  // namespace

const char* name_of(CpuVariant variant) {
  switch (variant) {
    case CpuVariant::avx512:
      return "avx512";
    case CpuVariant::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

const std::vector<CpuVariant>& cpu_variants() {
  static const std::vector<CpuVariant> variants = find_variants();
  return variants;
}

CpuVariant cpu_variant() {
  static const CpuVariant variant = choose();
  return variant;
}

}  // namespace perceiver
