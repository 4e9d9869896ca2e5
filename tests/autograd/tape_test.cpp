#include "perceiver/experimental/tape.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/experimental/ops.h"
#include "perceiver/experimental/parameters.h"
#include "tests/support/gradient_check.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::cpu;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor values(const std::vector<double>& numbers) {
  return Tensor::from_host<double>(cpu(), {1, static_cast<int64_t>(numbers.size())}, numbers);
}

Variable sum(Tape& tape, const Variable& a, const Variable& b) {
  return ops::residual_add(tape, a, b, {});
}

TEST(Tape, AddsUpTheGradientsOfAllUses) {
  Tape tape(cpu(), true);
  const Variable x = Tape::leaf(values({1, 2}));
  const Variable y = sum(tape, sum(tape, x, x), x);
  tape.give(y, values({1, 10}));
  tape.backward();
  EXPECT_THAT(y.value.to_host<double>(), ElementsAre(3, 6));
  EXPECT_THAT(x.gradient->tensor.to_host<double>(), ElementsAre(3, 30));
}

TEST(Tape, AGradientGivenToAParameterIsAddedInItsPlace) {
  ParameterStore store;
  Variable p;
  store.declare(p, "p", {1, 2}, {});
  store.allocate(cpu(), DType::f64);
  store.start_gradients();
  Tape tape(cpu(), true);
  tape.give(p, values({1, 2}));
  tape.give(p, values({10, 20}));
  EXPECT_THAT(store.gradient(store.infos()[0]).to_host<double>(), ElementsAre(11, 22));
}

TEST(Tape, BackwardWithoutAnythingToDoIsAnErrorOfTheCaller) {
  const Variable x = Tape::leaf(values({1, 2}));
  Tape silent(cpu(), false);
  EXPECT_THAT(message_of([&] { silent.backward(); }), HasSubstr("without recording"));

  Tape rootless(cpu(), true);
  sum(rootless, x, x);
  EXPECT_THAT(message_of([&] { rootless.backward(); }), HasSubstr("nothing to start from"));

  Tape tape(cpu(), true);
  const Variable y = sum(tape, x, x);
  tape.give(y, values({1, 1}));
  tape.backward();
  EXPECT_THAT(message_of([&] { tape.backward(); }), HasSubstr("already ran"));
  const Variable z = sum(tape, x, x);
  tape.give(z, values({1, 1}));
  tape.backward();  // of what was recorded since
}

TEST(Tape, GradientsAndResultsThatDoNotFitAreErrorsOfTheCaller) {
  Tape tape(cpu(), true);
  const Variable x = Tape::leaf(values({1, 2}));
  EXPECT_THAT(message_of([&] { tape.give(x, values({1})); }),
              HasSubstr("f64 [1, 1] given for one of f64 [1, 2]"));
  EXPECT_THAT(message_of([&] { tape.give(x, Tensor::zeros(cpu(), DType::f32, {1, 2})); }), HasSubstr("f32"));
  EXPECT_THAT(message_of([&] { tape.result(DType::bf16, {1}); }), HasSubstr("cpu does not compute in bf16"));
}

}  // namespace
}  // namespace perceiver
