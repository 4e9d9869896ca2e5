// Linear layers whose matrix products are of 8-bit operands (kernels/fp8.h).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/fp8.h"
#include "perceiver/experimental/ops.h"

namespace perceiver {

/// The state of a model's sites, in device memory, and whether the pass that runs sets scales for the first
/// time.
struct Fp8Recipe {
  Tensor scales;   ///< f32 [sites, 2, 4]
  Tensor largest;  ///< f32 [ranks, sites]
  Tensor peaks;    ///< f32 [sites]
  int64_t ranks = 1, rank = 0;
  bool calibrating = false;

  int64_t sites() const { return peaks.elements(); }
  const float* scale(int64_t site) const { return scales.as<float>() + kernels::fp8_scale_of(site); }
  const float* inverse_scale(int64_t site) const {
    return scales.as<float>() + kernels::fp8_inverse_of(site);
  }
  /// The magnitude that this rank raises.
  float* own_largest(int64_t site) const { return largest.as<float>() + rank * sites() + site; }
  /// Of `count` sites from `first` on. The caller adds what else it takes.
  kernels::Fp8Rescale rescaling(int64_t first, int64_t count) const {
    return {.sites = count,
            .first = first,
            .all_sites = sites(),
            .ranks = ranks,
            .rank = rank,
            .scales = scales.as<float>(),
            .largest = largest.as<float>(),
            .peaks = peaks.as<float>()};
  }
};

/// A matrix in 8 bits, and where its scale is.
struct Fp8Codes {
  Tensor rows;     ///< u8 [rows, columns], if wanted
  Tensor columns;  ///< u8 [columns, rows], if wanted
  const float* inverse = nullptr;
  kernels::Fp8Format format = kernels::Fp8Format::e4m3;
};

namespace ops {

/// The operands of a linear layer, in the order of their sites.
enum Fp8Operand : int64_t { kFp8Input, kFp8Weight, kFp8Gradient };
inline constexpr int64_t kFp8Sites = 3;

/// Where the operands of a linear layer have their scales, and the weight in 8 bits (Fp8Weights).
struct Fp8Layer {
  std::shared_ptr<const Fp8Recipe> recipe;
  int64_t first_site = 0;
  Tensor weight_rows;     ///< u8 [out, in]; none where the layer does not multiply in 8 bits
  Tensor weight_columns;  ///< u8 [in, out]
};

/// The weights of some layers in 8 bits, for all passes of a step. Their layers refer to them (Fp8Layer); the
/// i-th has its sites from i * kFp8Sites on.
class Fp8Weights {
 public:
  Fp8Weights(DeviceContext& context, std::shared_ptr<const Fp8Recipe> recipe,
             const std::vector<LinearParameters*>& layers);

  /// Of the weights as they are, with the scales as they are; a recipe that calibrates sets these first.
  void quantise() const;
  int64_t bytes() const;

 private:
  DeviceContext& context_;
  std::shared_ptr<const Fp8Recipe> recipe_;
  std::vector<std::shared_ptr<const Fp8Layer>> layers_;
  Tensor each_;  // kernels::Fp8Quantize of each weight
  DType type_ = DType::f32;
  int64_t count_ = 0, most_elements_ = 0;
};

/// Whether a pass multiplies these in 8 bits: one that trains (also when it runs again in backward), with
/// rows and columns in multiples of 16. The weights' codes are up to date.
bool multiplies_in_fp8(const Tape& tape, const Variable& x, const LinearParameters& parameters);

/// An operand of a layer in 8 bits, and what writes it.
struct Fp8Matrix {
  std::shared_ptr<const Fp8Codes> codes;
  kernels::Fp8Quantize quantize;  ///< without a source
};

/// Where an operation that can quantise its result [rows, columns] of `type` leaves it for `reader`: nowhere,
/// if that takes values, or has to see them to set its scale.
std::optional<Fp8Matrix> input_in_fp8(Tape& tape, const LinearParameters* reader, DType type, int64_t rows,
                                      int64_t columns);

/// Where a backward that can quantise it leaves the gradient of the result of a layer, if that reads it in 8
/// bits (Variable::wants_codes), under the same conditions.
std::optional<Fp8Matrix> gradient_in_fp8(Tape& tape, const Variable& result);

/// x · weightᵀ + bias, plus `residual` if it has a value.
Variable fp8_linear(Tape& tape, const Variable& x, const LinearParameters& parameters,
                    const Variable& residual);
/// The same into `y`, a result of the tape that `rotary` describes, rotated. Backward takes the gradient of
/// the product.
void fp8_linear_rotary(Tape& tape, const Variable& x, const LinearParameters& parameters, const Variable& y,
                       const kernels::LinearRotary& rotary);

/// second(activation(first(x))), plus `residual` if it has a value; the hidden layer is quantised as it is
/// computed.
Variable fp8_feed_forward(Tape& tape, const Variable& x, const LinearParameters& first, Activation activation,
                          const LinearParameters& second, const Variable& residual);

}  // namespace ops
}  // namespace perceiver
