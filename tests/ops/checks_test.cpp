// Operands that do not fit: one line that names the operation and the operand.
#include "ops/checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "perceiver/experimental/ops.h"
#include "tests/support/gradient_check.h"
#include "tests/support/user_error.h"

namespace perceiver {
namespace {

using ::testing::AllOf;
using testing::cpu;
using ::testing::HasSubstr;
using testing::random_tensor;
using ::testing::StartsWith;

Variable matrix(int64_t rows, int64_t columns, DType type = DType::f64) {
  return Tape::leaf(random_tensor({rows, columns}, 1, 1, 0, type));
}
Variable vector(int64_t elements) {
  return Tape::leaf(random_tensor({elements}, 1));
}
Tensor ints(const std::vector<int32_t>& values) {
  return Tensor::from_host<int32_t>(cpu(), {static_cast<int64_t>(values.size())}, values);
}

class OperandChecks : public ::testing::Test {
 protected:
  Tape tape_{cpu(), true};
};

TEST_F(OperandChecks, Linear) {
  EXPECT_EQ(message_of([&] {
              ops::linear(tape_, matrix(4, 3), {matrix(5, 2), {}});
            }),
            "linear: weight has shape [5, 2]; 3 columns are needed");
  EXPECT_EQ(message_of([&] {
              ops::linear(tape_, matrix(4, 3), {matrix(5, 3), vector(4)});
            }),
            "linear: bias has 4 elements; 5 are needed, one per column");
  EXPECT_EQ(message_of([&] {
              ops::linear(tape_, matrix(4, 3, DType::f32), {matrix(5, 3), {}});
            }),
            "linear: weight is f64; f32 is needed here, and nothing is converted implicitly");
  EXPECT_EQ(message_of([&] {
              ops::linear(tape_, vector(3), {matrix(5, 3), {}});
            }),
            "linear: x has shape [3]; 2 axes are needed");
  EXPECT_EQ(message_of([&] { ops::linear(tape_, {}, {matrix(5, 3), {}}); }), "linear: x has no value");
  EXPECT_EQ(message_of([&] {
              ops::linear(tape_, Tape::constant(ints({1})), {matrix(5, 3), {}});
            }),
            "linear: x is i32, not a floating-point type");
}

TEST_F(OperandChecks, NormAndResidual) {
  EXPECT_THAT(message_of([&] {
                ops::layer_norm(tape_, matrix(4, 3), {vector(3), vector(2)});
              }),
              StartsWith("layer_norm: offset has 2 elements"));
  EXPECT_THAT(message_of([&] { ops::residual_add(tape_, matrix(4, 2), matrix(4, 3), {}); }),
              StartsWith("residual_add: residual has shape [4, 2]; [4, 3] is needed"));
  EXPECT_THAT(message_of([&] {
                ops::residual_layer_norm(tape_, matrix(3, 3), matrix(4, 3), {vector(3), vector(3)}, {});
              }),
              StartsWith("residual_layer_norm: residual has shape [3, 3]"));
}

TEST_F(OperandChecks, Dropout) {
  Tape tape(cpu(), true, true);
  EXPECT_THAT(message_of([&] { ops::residual_add(tape, {}, matrix(4, 3), {.rate = 0.5, .per_example = 3}); }),
              AllOf(StartsWith("dropout:"), HasSubstr("TrainingSteps::random")));
  EXPECT_THAT(message_of([&] { ops::residual_add(tape, {}, matrix(4, 3), {.rate = 1, .per_example = 3}); }),
              StartsWith("dropout: rate 1"));
}

TEST_F(OperandChecks, Embedding) {
  EXPECT_EQ(message_of([&] {
              ops::embedding(tape_, matrix(4, 3), ints({0, 4}));
            }),
            "embedding: id 4 of row 1 is not in [0, 3]");
  EXPECT_THAT(message_of([&] { ops::embedding(tape_, matrix(4, 3), random_tensor({2}, 1)); }),
              StartsWith("embedding: ids is f64, not i32"));
  const std::vector<ops::Lookup> two{{.table = matrix(4, 3), .ids = ints({0})},
                                     {.table = matrix(4, 2), .ids = ints({0})}};
  EXPECT_THAT(message_of([&] { ops::embedding(tape_, two, 1, DType::f64); }), HasSubstr("3 columns"));
  EXPECT_THAT(message_of([&] {
                ops::embedding(tape_, {two.data(), 1}, 2, DType::f64);
              }),
              HasSubstr("ids has 1 elements; 2 are needed"));
  EXPECT_THAT(message_of([&] { ops::embedding(tape_, {}, 2, DType::f64); }), HasSubstr("0 tables"));
}

TEST_F(OperandChecks, Rotary) {
  const ops::RotaryTable table = ops::make_rotary_table(cpu(), DType::f64, 4, 2, 4);
  const auto rotate = [&](int64_t columns, const std::vector<int32_t>& positions) {
    return message_of([&] { ops::rotary(tape_, matrix(2, columns), 0, 4, table, ints(positions)); });
  };
  EXPECT_THAT(rotate(7, {0, 1}), HasSubstr("do not fit x [2, 7]"));
  EXPECT_THAT(rotate(8, {0}), HasSubstr("positions has 1 elements"));
  EXPECT_EQ(rotate(8, {0, 4}), "rotary: position 4 of row 1 is not in [-3, 3]");
  EXPECT_THAT(message_of([] { ops::make_rotary_table(cpu(), DType::f64, 0, 2, 4); }),
              HasSubstr("0 positions"));
  EXPECT_THAT(message_of([] { ops::make_rotary_table(cpu(), DType::f64, 3, 2, 4, {.fraction = 2}); }),
              HasSubstr("fractions"));
}

TEST_F(OperandChecks, Attention) {
  const ops::AttentionMask mask = ops::causal_mask(cpu(), 1, 3);
  const auto attend = [&](const Variable& q, const Variable& kv, int64_t v_column, int64_t batch,
                          const ops::AttentionMask& m) {
    return message_of([&] { ops::attention(tape_, {q, kv, 0, 0, v_column, batch, 2, 2}, m); });
  };
  EXPECT_THAT(attend(matrix(3, 4), matrix(3, 7), 4, 1, mask), HasSubstr("outside of the matrices"));
  EXPECT_THAT(attend(matrix(3, 4), matrix(3, 9), 4, 1, mask), HasSubstr("must cover all columns"));
  EXPECT_THAT(attend(matrix(3, 4), matrix(3, 8), 0, 1, mask), HasSubstr("without overlap"));
  EXPECT_THAT(attend(matrix(3, 4), matrix(3, 8), 4, 2, mask), HasSubstr("are not 2 examples"));
  EXPECT_THAT(attend(matrix(3, 4), matrix(2, 8), 4, 1, mask), StartsWith("attention: limit 3 of row 2"));
  EXPECT_THAT(attend(matrix(3, 4), matrix(3, 8), 4, 1, {}), HasSubstr("the mask's limit has no value"));
  ops::AttentionMask keys = mask;
  keys.key_mask = Tensor::zeros(cpu(), DType::u8, {2});
  EXPECT_THAT(attend(matrix(3, 4), matrix(3, 8), 4, 1, keys), HasSubstr("key mask is u8 [2]"));
  EXPECT_THAT(message_of([] { ops::causal_mask(cpu(), 0, 3); }), HasSubstr("0 examples"));
}

TEST_F(OperandChecks, LossAndRows) {
  const auto loss = [&](const Variable& x, const Tensor& targets) {
    return message_of([&] { ops::output_loss(tape_, x, {matrix(5, 3), vector(5)}, targets, {}); });
  };
  EXPECT_THAT(loss(matrix(2, 2), ints({1, 2})), HasSubstr("weight has shape [5, 3]; 2 columns"));
  EXPECT_THAT(loss(matrix(2, 3), ints({1, 2, 3})), HasSubstr("3 targets for 2 rows"));
  EXPECT_EQ(loss(matrix(2, 3), ints({1, 5})), "output_loss: target 5 of row 1 is not in [0, 4]");
  EXPECT_THAT(message_of([&] { ops::average_rows(tape_, matrix(5, 3), 2); }), HasSubstr("groups of 2"));
  EXPECT_THAT(message_of([&] { ops::repeat_rows(tape_, matrix(5, 3), matrix(2, 4)); }),
              HasSubstr("encoding"));
}

}  // namespace
}  // namespace perceiver
