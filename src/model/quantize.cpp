#include "model/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/check.h"
#include "model/perceiver_ar.h"

namespace perceiver {
namespace {

constexpr float kLargest = 127;

float largest_magnitude(const float* row, int64_t columns) {
  float largest = 0;
  for (int64_t i = 0; i < columns; ++i) largest = std::max(largest, std::abs(row[i]));
  return largest;
}

bool is_finite(const float* row, int64_t columns) {
  return std::all_of(row, row + columns, [](float weight) { return std::isfinite(weight); });
}

/// Returns the scale. That of the smallest weights is inexact, and the quotient may exceed 127.
float quantize_row(float* row, int64_t columns, int8_t* integers) {
  const float scale = largest_magnitude(row, columns) / kLargest;
  for (int64_t i = 0; i < columns; ++i) {
    const float quotient = scale == 0 ? 0 : std::nearbyint(row[i] / scale);
    integers[i] = static_cast<int8_t>(std::clamp(quotient, -kLargest, kLargest));
    row[i] = scale * static_cast<float>(integers[i]);
  }
  return scale;
}

}  // namespace

void quantize_rows(WorkerPool& workers, const Tensor& weight, const NarrowWeight& narrow) {
  const int64_t rows = weight.shape()[0], columns = weight.elements() / rows;
  PERCEIVER_ASSERT(weight.dtype() == DType::f32 && narrow.values.dtype() == DType::i8 &&
                   narrow.scale.dtype() == DType::f32 && narrow.values.elements() == weight.elements() &&
                   narrow.scale.elements() == rows);
  std::atomic<bool> finite = true;
  workers.run(rows, [&](int64_t r) {
    float* const row = weight.as<float>() + r * columns;
    if (!is_finite(row, columns)) {
      finite = false;
    } else {
      narrow.scale.as<float>()[r] = quantize_row(row, columns, narrow.values.as<int8_t>() + r * columns);
    }
  });
  if (!finite) throw_user("a weight is not finite: the model cannot be quantized");
}

void PerceiverAR::allocate_quantized_weights() {
  PERCEIVER_ASSERT(can_narrow_weights());
  for (ops::LinearParameters* linear : linears()) {
    const Shape& shape = linear->weight.value.shape();
    linear->narrow_weight = Tensor::empty(*context_, DType::i8, shape);
    linear->narrow_scale = Tensor::empty(*context_, DType::f32, {shape[0]});
  }
}

void PerceiverAR::quantize_weights() {
  if (!can_narrow_weights())
    throw_user(
        "int8 weights are made on the CPU from a float32 model; a GPU computes with those of a file from "
        "`perceiver quantize`, in bfloat16");
  allocate_quantized_weights();
  for (ops::LinearParameters* linear : linears())
    quantize_rows(context_->workers(), linear->weight.value, {linear->narrow_weight, linear->narrow_scale});
}

void PerceiverAR::set_weights(Weights weights) {
  switch (weights) {
    case Weights::automatic:
      return;
    case Weights::bfloat16:
      return round_weights_to_bf16();
    case Weights::int8:
      if (weight_type() != DType::i8) quantize_weights();
      return;
    case Weights::float32:
      if (type_ != DType::f32) throw_user("float32 weights need a model that computes in float32");
      for (ops::LinearParameters* linear : linears()) linear->narrow_weight = linear->narrow_scale = {};
  }
}

NarrowWeight PerceiverAR::narrow_weight(const ParameterInfo& info) const {
  const auto* const begin = static_cast<const std::byte*>(parameters_.read_values().data());
  for (const ops::LinearParameters* linear : const_cast<PerceiverAR*>(this)->linears()) {
    if (!linear->narrow_weight) continue;
    const Tensor& weight = linear->weight.value;  // may hold several parameters
    const int64_t offset = (static_cast<const std::byte*>(weight.data()) - begin) /
                           static_cast<int64_t>(size_of(weight.dtype()));
    const int64_t first = info.offset - offset;
    if (first < 0 || first >= weight.elements()) continue;
    NarrowWeight narrow{linear->narrow_weight.view(first, info.shape)};
    if (linear->narrow_scale)
      narrow.scale = linear->narrow_scale.view(first / weight.shape()[1], {info.shape[0]});
    return narrow;
  }
  return {};
}

}  // namespace perceiver
