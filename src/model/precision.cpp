#include "model/precision.h"

#include "base/check.h"
#include "kernels/fp8.h"

namespace perceiver {

namespace {

DType type_of(Precision precision, bool gpu) {
  switch (precision) {
    case Precision::automatic:
      return gpu ? DType::bf16 : DType::f32;
    case Precision::float32:
      return DType::f32;
    case Precision::bfloat16:
      if (!gpu) throw_user("precision bfloat16 needs a GPU; use auto or float32 on the CPU");
      return DType::bf16;
    case Precision::fp8:
      if (!gpu) throw_user("precision fp8 needs a GPU; use auto or float32 on the CPU");
      return DType::bf16;
    case Precision::tf32:
      if (!gpu) throw_user("precision tf32 needs a GPU; use auto or float32 on the CPU");
      return DType::f32;
    case Precision::float64:
      if (gpu) throw_user("precision float64 is for the CPU only; use device: cpu");
      return DType::f64;
  }
  throw_failure("internal error: unknown precision {}", static_cast<int>(precision));
}

}  // namespace

DType apply_precision(Precision precision, DeviceContext& context) {
  const DType type = type_of(precision, context.is_cuda());
  const char* const obstacle =
      precision == Precision::fp8 ? kernels::fp8_obstacle(context.launch()) : nullptr;
  if (obstacle != nullptr) throw_user("precision fp8: {} {}; use bfloat16", context.name(), obstacle);
  // The f32 products of a bf16 model are those of the context's tables (docs/projection.md): tf32 has three
  // more bits than bf16 at half the rate; f32 would take ten times as long.
  const bool rounded = type == DType::bf16 || precision == Precision::tf32;
  context.set_matmul_precision(rounded ? MatmulPrecision::tf32 : MatmulPrecision::full);
  return type;
}

std::string precision_name(Precision precision, DType type) {
  return std::string(precision == Precision::fp8 ? "fp8" : name_of(type));
}

}  // namespace perceiver
