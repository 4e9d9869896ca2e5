#include "perceiver/experimental/host_values.h"

#include "base/check.h"
#include "core/bf16.h"

namespace perceiver {
namespace {

void check_real(const Tensor& tensor) {
  if (tensor.dtype() != DType::bf16)
    throw_user("tensor {} of {}: its elements are no floating-point numbers", tensor.shape().text(),
               name_of(tensor.dtype()));
}

template <typename T>
void fill_with(const Tensor& tensor, const auto& value) {
  std::vector<T> host(static_cast<size_t>(tensor.elements()));
  for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<T>(value(static_cast<int64_t>(i)));
  tensor.copy_from_host(std::as_bytes(std::span<const T>(host)));
}

}  // namespace

std::vector<double> host_doubles(const Tensor& tensor) {
  if (tensor.dtype() == DType::f64) return tensor.to_host<double>();
  if (tensor.dtype() == DType::f32) {
    const std::vector<float> values = tensor.to_host<float>();
    return {values.begin(), values.end()};
  }
  check_real(tensor);
  const std::vector<uint16_t> bits = tensor.to_host<uint16_t>();
  std::vector<double> values(bits.size());
  for (size_t i = 0; i < bits.size(); ++i) values[i] = static_cast<double>(from_bf16(bits[i]));
  return values;
}

void fill(const Tensor& tensor, const std::function<double(int64_t)>& value) {
  if (tensor.dtype() == DType::f64) return fill_with<double>(tensor, value);
  if (tensor.dtype() == DType::f32) return fill_with<float>(tensor, value);
  check_real(tensor);
  fill_with<uint16_t>(tensor, [&](int64_t i) { return to_bf16(value(i)); });
}

}  // namespace perceiver
