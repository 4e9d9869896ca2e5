#include "ops/checks.h"

#include "base/check.h"

namespace perceiver::ops {
namespace {

std::string_view name_of(Device device) {
  return device.kind == DeviceKind::cuda ? "a GPU" : "the CPU";
}

void check_place(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor) {
  if (!tensor) throw_user("{}: {} has no value", op, what);
  const Device device = tape.context().device();
  if (tensor.device() == device) return;
  if (tensor.device().kind == device.kind)
    throw_user("{}: {} is on GPU {}, the tape on GPU {}", op, what, tensor.device().index, device.index);
  throw_user("{}: {} is on {}, the tape on {}; nothing is moved implicitly", op, what,
             name_of(tensor.device()), name_of(device));
}

}  // namespace

void check_operand(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                   DType type, int rank) {
  check_place(tape, op, what, tensor);
  if (tensor.dtype() != type)
    throw_user("{}: {} is {}; {} is needed here, and nothing is converted implicitly", op, what,
               perceiver::name_of(tensor.dtype()), perceiver::name_of(type));
  if (tensor.shape().rank() != rank)
    throw_user("{}: {} has shape {}; {} axes are needed", op, what, tensor.shape().text(), rank);
}

void check_activation(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor) {
  check_place(tape, op, what, tensor);
  const DType type = tensor.dtype();
  if (type != DType::f32 && type != DType::f64 && type != DType::bf16)
    throw_user("{}: {} is {}, not a floating-point type", op, what, perceiver::name_of(type));
  check_operand(tape, op, what, tensor, type, 2);
}

void check_columns(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                   DType type, int64_t columns) {
  check_operand(tape, op, what, tensor, type, 2);
  if (tensor.shape()[1] != columns)
    throw_user("{}: {} has shape {}; {} columns are needed", op, what, tensor.shape().text(), columns);
}

void check_same(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                const Tensor& other) {
  check_operand(tape, op, what, tensor, other.dtype(), other.shape().rank());
  if (tensor.shape() != other.shape())
    throw_user("{}: {} has shape {}; {} is needed", op, what, tensor.shape().text(), other.shape().text());
}

void check_vector(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                  DType type, int64_t columns) {
  check_operand(tape, op, what, tensor, type, 1);
  if (tensor.elements() != columns)
    throw_user("{}: {} has {} elements; {} are needed, one per column", op, what, tensor.elements(), columns);
}

void check_integers(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                    int64_t count) {
  check_place(tape, op, what, tensor);
  if (tensor.dtype() != DType::i32)
    throw_user("{}: {} is {}, not i32", op, what, perceiver::name_of(tensor.dtype()));
  if (tensor.elements() < count)
    throw_user("{}: {} has {} elements; {} are needed", op, what, tensor.elements(), count);
}

void check_range(const Tape& tape, std::string_view op, std::string_view what, const Tensor& tensor,
                 int64_t count, int64_t low, int64_t high, int64_t first, int64_t stride) {
  if (tape.context().is_cuda()) return;
  const int32_t* values = tensor.as<int32_t>() + first;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t value = values[i * stride];
    if (value < low || value > high)
      throw_user("{}: {} {} of row {} is not in [{}, {}]", op, what, value, i, low, high);
  }
}

}  // namespace perceiver::ops
