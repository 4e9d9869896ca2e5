#include "model/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "base/check.h"
#include "kernels/dequantize.h"
#include "kernels/fp8_codes.h"
#include "model/perceiver_ar.h"

namespace perceiver {
namespace {

using kernels::Fp8Format;

constexpr float kLargestInteger = 127;

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
  const float scale = largest_magnitude(row, columns) / kLargestInteger;
  for (int64_t i = 0; i < columns; ++i) {
    const float quotient = scale == 0 ? 0 : std::nearbyint(row[i] / scale);
    integers[i] = static_cast<int8_t>(std::clamp(quotient, -kLargestInteger, kLargestInteger));
    row[i] = scale * static_cast<float>(integers[i]);
  }
  return scale;
}

/// The same for e4m3; the codes are clamped to the largest number.
float quantize_row(float* row, int64_t columns, uint8_t* codes) {
  const float scale = largest_magnitude(row, columns) / kernels::largest_of(Fp8Format::e4m3);
  for (int64_t i = 0; i < columns; ++i) {
    const double quotient = scale == 0 ? 0 : static_cast<double>(row[i]) / static_cast<double>(scale);
    codes[i] = kernels::encode_fp8(quotient, Fp8Format::e4m3);
    row[i] = scale * kernels::decode_fp8(codes[i], Fp8Format::e4m3);
  }
  return scale;
}

template <typename Code>
void quantize_rows_as(WorkerPool& workers, const Tensor& weight, const NarrowWeight& narrow) {
  const int64_t rows = weight.shape()[0], columns = weight.elements() / rows;
  std::atomic<bool> finite = true;
  workers.run(rows, [&](int64_t r) {
    float* const row = weight.as<float>() + r * columns;
    if (!is_finite(row, columns)) {
      finite = false;
    } else {
      narrow.scale.as<float>()[r] = quantize_row(row, columns, narrow.values.as<Code>() + r * columns);
    }
  });
  if (!finite) throw_user("a weight is not finite: the model cannot be quantized");
}

std::string_view option_of(DType type) {
  return type == DType::i8 ? "int8" : "fp8";
}

}  // namespace

NarrowWeight allocate_narrow(DeviceContext& context, DType type, const Shape& shape) {
  const int64_t rows = shape[0], at = kernels::narrow_scale_offset(rows, shape.elements() / rows);
  const Tensor both = Tensor::empty(context, DType::u8, {at + rows * static_cast<int64_t>(sizeof(float))});
  return {both.part(0, type, shape), both.part(static_cast<size_t>(at), DType::f32, {rows})};
}

void quantize_rows(WorkerPool& workers, const Tensor& weight, const NarrowWeight& narrow) {
  PERCEIVER_ASSERT(weight.dtype() == DType::f32 && kernels::is_narrow(narrow.values.dtype()) &&
                   narrow.scale.dtype() == DType::f32 && narrow.values.elements() == weight.elements() &&
                   narrow.scale.elements() == weight.shape()[0]);
  if (narrow.values.dtype() == DType::i8) return quantize_rows_as<int8_t>(workers, weight, narrow);
  quantize_rows_as<uint8_t>(workers, weight, narrow);
}

void PerceiverAR::allocate_quantized_weights(DType type) {
  PERCEIVER_ASSERT(can_quantize_weights());
  for (ops::LinearParameters* linear : linears()) {
    NarrowWeight narrow = allocate_narrow(*context_, type, linear->weight.shape());
    linear->narrow_weight = std::move(narrow.values);
    linear->narrow_scale = std::move(narrow.scale);
  }
}

void PerceiverAR::quantize_weights(DType type) {
  if (!can_quantize_weights())
    throw_user("{} weights are for models that compute in float32, or on a GPU", option_of(type));
  if (!parameters_.values())
    throw_user("the weights are {} alone and cannot become {}: load the model again",
               option_of(weight_type()), option_of(type));
  allocate_quantized_weights(type);
  const bool gpu = context_->is_cuda();
  for (ops::LinearParameters* linear : linears()) {
    const Tensor wide = parameters_.unrounded(linear->weight).value, weight = wide.on_host();
    const NarrowWeight device{linear->narrow_weight, linear->narrow_scale};
    const NarrowWeight host = gpu ? NarrowWeight{Tensor::on_host(type, device.values.shape()),
                                                 Tensor::on_host(DType::f32, device.scale.shape())}
                                  : device;
    quantize_rows(context_->workers(), weight, host);
    if (!gpu) continue;
    const auto upload = [](const Tensor& from, const Tensor& to) {
      to.copy_from_host({static_cast<const std::byte*>(from.data()), from.bytes()});
    };
    upload(host.values, device.values), upload(host.scale, device.scale), upload(weight, wide);
  }
  parameters_.publish();
  forget_wide_weights();
}

/// The token embedding stays, also where it is the output's weight.
void PerceiverAR::forget_wide_weights() {
  if (!context_->is_cuda()) return;
  std::vector<const Variable*> forgotten;
  for (const ops::LinearParameters* linear : linears())
    if (linear != &output_ || !config_.tied_output) forgotten.push_back(&linear->weight);
  parameters_.forget(forgotten);
  if (config_.tied_output) output_.weight = token_embedding_;
  context_->memory()->trim();
}

void PerceiverAR::set_weights(Weights weights) {
  switch (weights) {
    case Weights::automatic:
      return;
    case Weights::bfloat16:
      return round_weights_to_bf16();
    case Weights::int8:
    case Weights::fp8: {
      const DType type = weights == Weights::int8 ? DType::i8 : DType::e4m3;
      if (weight_type() != type) quantize_weights(type);
      return;
    }
    case Weights::float32:
      if (type_ != DType::f32 || !parameters_.values())
        throw_user("float32 weights need a model that computes in float32");
      for (ops::LinearParameters* linear : linears()) linear->narrow_weight = linear->narrow_scale = {};
  }
}

NarrowWeight PerceiverAR::narrow_weight(const ParameterInfo& info) const {
  for (const ops::LinearParameters* linear : const_cast<PerceiverAR*>(this)->linears()) {
    if (!linear->narrow_weight) continue;
    const Shape& shape = linear->weight.shape();  // may hold several parameters
    const int64_t first = info.offset - parameters_.offset_of(linear->weight);
    if (first < 0 || first >= shape.elements()) continue;
    NarrowWeight narrow{linear->narrow_weight.view(first, info.shape)};
    if (linear->narrow_scale) narrow.scale = linear->narrow_scale.view(first / shape[1], {info.shape[0]});
    return narrow;
  }
  return {};
}

}  // namespace perceiver
