#include "model/precision.h"

#include "core/check.h"

namespace perceiver {

DType apply_precision(Precision precision, DeviceContext& context) {
  const bool gpu = context.is_cuda();
  context.set_products(precision == Precision::tf32 ? Products::tf32 : Products::full);
  switch (precision) {
    case Precision::automatic:
      return gpu ? DType::bf16 : DType::f32;
    case Precision::float32:
      return DType::f32;
    case Precision::bfloat16:
      if (!gpu) throw_user("precision bfloat16 needs a GPU; use auto or float32 on the CPU");
      return DType::bf16;
    case Precision::tf32:
      if (!gpu) throw_user("precision tf32 needs a GPU; use auto or float32 on the CPU");
      return DType::f32;
    case Precision::float64:
      if (gpu) throw_user("precision float64 is computed on the CPU alone; use device: cpu");
      return DType::f64;
  }
  throw_failure("internal error: unknown precision {}", static_cast<int>(precision));
}

}  // namespace perceiver
