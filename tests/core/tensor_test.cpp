#include "perceiver/experimental/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/experimental/host_values.h"
#include "tests/support/gradient_check.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using testing::cpu;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(Tensor, KeepsTheValuesItWasMadeFrom) {
  const std::vector<float> values{1, 2, 3, 4, 5, 6};
  const Tensor tensor = Tensor::from_host<float>(cpu(), {2, 3}, values);
  EXPECT_EQ(tensor.to_host<float>(), values);
  EXPECT_THAT(tensor.view(3, {3}).to_host<float>(), ElementsAre(4, 5, 6));
  EXPECT_THAT(host_doubles(tensor.reshaped({3, 2})), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(Tensor, OutlivesItsContext) {
  auto context = DeviceContext::cpu(1);
  const Tensor tensor = Tensor::from_host<int32_t>(*context, {2}, std::vector<int32_t>{7, 8});
  context.reset();
  EXPECT_THAT(tensor.to_host<int32_t>(), ElementsAre(7, 8));
}

TEST(Tensor, RoundsToBfloat16Once) {
  const Tensor tensor = Tensor::empty(cpu(), DType::bf16, {2});
  fill(tensor, [](int64_t i) { return i == 0 ? 1.00390625 : 3.0; });  // 1 + 2^-8: halfway, to even
  EXPECT_THAT(host_doubles(tensor), ElementsAre(1, 3));
}

TEST(Tensor, SizesThatDoNotFitAreErrorsOfTheCaller) {
  const Tensor tensor = Tensor::zeros(cpu(), DType::f32, {2, 3});
  const std::vector<float> five(5);
  EXPECT_THAT(message_of([&] {
                Tensor::from_host<float>(cpu(), {2, 3}, five);
              }),
              HasSubstr("tensor [2, 3] of f32 has 24 bytes, not 20"));
  EXPECT_THAT(message_of([&] { (void)tensor.to_host<double>(); }), HasSubstr("24 bytes, not 48"));
  EXPECT_THAT(message_of([&] { (void)tensor.view(1, {6}); }), HasSubstr("no [6] from element 1 on"));
  EXPECT_THAT(message_of([&] { tensor.copy_from(Tensor::zeros(cpu(), DType::f32, {7})); }), HasSubstr("28"));
  EXPECT_THAT(message_of([&] {
                tensor.copy_from(Tensor::on_host(DType::f32, {2, 3}));
              }),
              HasSubstr("copy_from_host"));
  EXPECT_THAT(message_of([] { Shape({1, 2, 3, 4, 5}); }), HasSubstr("at most 4 axes"));
  EXPECT_THAT(message_of([] { Shape({2, -1}); }), HasSubstr("negative"));
  const Tensor integers = Tensor::zeros(cpu(), DType::i32, {2});
  EXPECT_THAT(message_of([&] { (void)host_doubles(integers); }), HasSubstr("i32"));
  EXPECT_THAT(message_of([&] { fill(integers, [](int64_t) { return 0.0; }); }), HasSubstr("i32"));
}

TEST(DeviceContext, KnowsItsNamesAndTypes) {
  EXPECT_THAT(message_of([] { DeviceContext::open("gpu"); }),
              HasSubstr("'gpu'; one of cpu, cuda, cuda:N, auto"));
  const auto context = DeviceContext::open("cpu", 3);
  EXPECT_EQ(context->name(), "cpu");
  EXPECT_EQ(context->threads(), 3);
  EXPECT_TRUE(context->computes_in(DType::f32) && context->computes_in(DType::f64));
  EXPECT_FALSE(context->computes_in(DType::bf16) || context->computes_in(DType::i32));
}

}  // namespace
}  // namespace perceiver
