#include "perceiver/experimental/parameters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/experimental/layers.h"
#include "tests/support/gradient_check.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::cpu;
using ::testing::Each;
using ::testing::HasSubstr;

TEST(Parameters, AreReadUnderTheirNames) {
  ParameterStore store;
  ops::LinearParameters linear;
  ops::NormParameters norm;
  declare_linear(store, linear, "linear", 3, 5);
  declare_norm(store, norm, "norm", 5);
  store.allocate(cpu(), DType::f32);
  store.initialize(1);
  std::vector<std::string> names;
  for (const NamedTensor& each : store.tensors())
    names.push_back(each.name + " " + each.tensor.shape().text());
  EXPECT_THAT(names, ::testing::ElementsAre("linear.weight [5, 3]", "linear.bias [5]", "norm.scale [5]",
                                            "norm.offset [5]"));
  EXPECT_THAT(norm.scale.value.to_host<float>(), Each(1));
  EXPECT_THAT(linear.bias.value.to_host<float>(), Each(0));
  EXPECT_EQ(linear.weight.value.data(), store.tensors()[0].tensor.data());
  EXPECT_EQ(store.count(), 30);
}

TEST(Parameters, DecayWhereTheyAreMatricesOfLayers) {
  ParameterStore store;
  Variable table, matrix, output, vector;
  store.declare(table, "table", {4, 2}, {}, ParameterUse::table);
  store.declare(matrix, "matrix", {4, 2}, {});
  store.declare(output, "output", {4, 2}, {}, ParameterUse::output);
  store.declare(vector, "vector", {4}, {});
  EXPECT_FALSE(store.find("table")->decays());
  EXPECT_TRUE(store.find("output")->decays());
  EXPECT_TRUE(store.find("matrix")->decays());
  EXPECT_FALSE(store.find("vector")->decays());
}

TEST(Parameters, MisuseIsAnErrorOfTheCaller) {
  ParameterStore store;
  Variable p, q;
  store.declare(p, "p", {2, 2}, {});
  EXPECT_THAT(message_of([&] { store.declare(q, "p", {3}, {}); }), HasSubstr("parameter p: declared twice"));
  EXPECT_THAT(message_of([&] { store.declare(q, "q", {}, {}); }), HasSubstr("q: a shape"));
  EXPECT_THAT(message_of([&] { store.initialize(1); }), HasSubstr("call allocate first"));
  EXPECT_THAT(message_of([&] { store.allocate(cpu(), DType::bf16); }), HasSubstr("bf16; use f32 or f64"));
  store.allocate(cpu(), DType::f64);
  EXPECT_THAT(message_of([&] { store.allocate(cpu(), DType::f64); }), HasSubstr("twice"));
  EXPECT_THAT(message_of([&] { store.declare(q, "q", {3}, {}); }),
              HasSubstr("after the memory was allocated"));
  EXPECT_EQ(store.count(), 4);
}

}  // namespace
}  // namespace perceiver
