#include <algorithm>
#include <span>

#include "base/check.h"
#include "kernels/fp8.h"
#include "ops/fp8.h"

namespace perceiver::ops {
namespace {

using kernels::Fp8Quantize;

bool fits(const Shape& weight) {
  return weight[0] % 16 == 0 && weight[1] % 16 == 0;
}

Fp8Quantize quantisation(const Tensor& weight, const Fp8Layer& layer) {
  const int64_t site = layer.first_site + kFp8Weight;
  Fp8Quantize what{};
  what.type = weight.dtype();
  what.rows = weight.shape()[0];
  what.columns = weight.shape()[1];
  what.x = weight.data();
  what.format = kernels::fp8_format_of_site(site);
  what.scale = layer.recipe->scale(site);
  what.largest = layer.recipe->own_largest(site);
  what.out = layer.weight_rows.data();
  what.transposed = layer.weight_columns.data();
  PERCEIVER_ASSERT(reinterpret_cast<uintptr_t>(what.x) % 16 == 0);
  return what;
}

}  // namespace

Fp8Weights::Fp8Weights(DeviceContext& context, std::shared_ptr<const Fp8Recipe> recipe,
                       const std::vector<LinearParameters*>& layers)
    : context_(context), recipe_(std::move(recipe)) {
  std::vector<Fp8Quantize> each;
  int64_t site = 0;
  for (LinearParameters* parameters : layers) {
    const Tensor& weight = parameters->weight.value;
    const int64_t out = weight.shape()[0], in = weight.shape()[1];
    auto layer = std::make_shared<Fp8Layer>(Fp8Layer{recipe_, site, {}, {}});
    site += kFp8Sites;
    if (fits(weight.shape())) {
      layer->weight_rows = Tensor::empty(context, DType::u8, {out, in});
      layer->weight_columns = Tensor::empty(context, DType::u8, {in, out});
      each.push_back(quantisation(weight, *layer));
      type_ = weight.dtype();
      most_elements_ = std::max(most_elements_, weight.elements());
    }
    parameters->fp8 = layer;
    layers_.push_back(std::move(layer));
  }
  count_ = static_cast<int64_t>(each.size());
  each_ = Tensor::empty(context, DType::u8, {static_cast<int64_t>(each.size() * sizeof(Fp8Quantize))});
  each_.copy_from_host(std::as_bytes(std::span(each)));
}

void Fp8Weights::quantise() const {
  if (count_ == 0) return;
  const kernels::Fp8QuantizeMany all{.type = type_,
                                     .each = reinterpret_cast<const Fp8Quantize*>(each_.data()),
                                     .count = count_,
                                     .most_elements = most_elements_};
  if (recipe_->calibrating) {
    // Sites of other operands have no magnitudes yet and remain as they are.
    kernels::fp8_quantize_many(context_.launch(), all);
    kernels::fp8_rescale(context_.launch(), recipe_->rescaling(0, recipe_->sites()));
  }
  kernels::fp8_quantize_many(context_.launch(), all);
}

int64_t Fp8Weights::bytes() const {
  int64_t bytes = 0;
  for (const auto& layer : layers_)
    if (layer->weight_rows) bytes += 2 * layer->weight_rows.elements();
  return bytes;
}

}  // namespace perceiver::ops
