#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include "tests/support/gradient_check.h"

namespace perceiver {
namespace {

using testing::check_gradients;
using testing::cpu;
using testing::random_tensor;

Tensor ints(const std::vector<int32_t>& values) {
  return Tensor::from_host<int32_t>(cpu(), {static_cast<int64_t>(values.size())}, values);
}

TEST(Embedding, GradientsOfSeveralTables) {
  const Tensor tokens = ints({0, 4, 2, 4, 4, 1}), positions = ints({0, 1, 2, 0, 1, 1, 2, 2, 0, 0, 1, 0});
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        const ops::Lookup lookups[] = {{.table = in[0], .ids = tokens},
                                       {.table = in[1], .ids = positions, .stride = 2, .column = 0},
                                       {.table = in[2], .ids = positions, .stride = 2, .column = 1}};
        return ops::embedding(tape, lookups, 6, DType::f64);
      },
      {random_tensor({5, 3}, 1), random_tensor({3, 3}, 2), random_tensor({3, 3}, 3)});
}

TEST(Embedding, AddsUpOverTwoUsesOfOneTable) {
  const Tensor first = ints({1, 1, 0}), second = ints({2, 1, 1});
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        const ops::Lookup a{.table = in[0], .ids = first}, b{.table = in[0], .ids = second};
        return ops::residual_add(tape, ops::embedding(tape, {&a, 1}, 3, DType::f64),
                                 ops::embedding(tape, {&b, 1}, 3, DType::f64), {});
      },
      {random_tensor({4, 5}, 1)});
}

TEST(Embedding, OneTable) {
  const Tensor ids = Tensor::from_host<int32_t>(cpu(), {2, 2}, std::vector<int32_t>{2, 0, 2, 1});
  const Tensor table = random_tensor({3, 2}, 1);
  Tape tape(cpu(), false);
  const Variable y = ops::embedding(tape, Tape::constant(table), ids);
  EXPECT_EQ(y.shape(), (Shape{4, 2}));
  for (int64_t i = 0; i < 8; ++i)
    EXPECT_EQ(y.value.as<double>()[i], table.as<double>()[2 * ids.as<int32_t>()[i / 2] + i % 2]);
  check_gradients([&](Tape& t, const std::vector<Variable>& in) { return ops::embedding(t, in[0], ids); },
                  {table});
}

}  // namespace
}  // namespace perceiver
