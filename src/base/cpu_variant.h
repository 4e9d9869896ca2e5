// Which instruction set the CPU kernels use. A build for this machine (PERCEIVER_NATIVE=ON), for other
// processors than x86-64, or with an instruction set of its own in the compiler's flags has one variant of
// them; any other build has all three and chooses when it runs (cmake/cpu_variants.cmake, kernels/backend.h).
#pragma once

#include <cstdint>
#include <vector>

namespace perceiver {

/// Instruction sets, each with those before it.
enum class CpuVariant : uint8_t {
  baseline,  ///< what every processor of the architecture has
  avx2,      ///< AVX2, FMA, BMI 1 and 2
  avx512,    ///< AVX-512 F, CD, BW, DQ and VL
};

/// "baseline", "avx2" or "avx512": the names that PERCEIVER_CPU takes.
const char* name_of(CpuVariant variant);

/// The variants in this build that the machine can run, in ascending order.
const std::vector<CpuVariant>& cpu_variants();

/// The variant in use: the one that the environment variable PERCEIVER_CPU names, else the last of
/// cpu_variants(). Chosen at the first call, the same for the life of the process; any thread may call.
/// Throws a user error if this build or this machine lacks the one that is named.
CpuVariant cpu_variant();

}  // namespace perceiver
