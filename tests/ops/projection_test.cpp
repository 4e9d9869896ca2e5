// The operations on projected tables against finite differences.
#include "ops/projection.h"
#include "perceiver/experimental/ops.h"

#include <gtest/gtest.h>

#include "model/projection.h"
#include "tests/support/context_model.h"
#include "tests/support/small_model.h"

namespace perceiver {
namespace {

using testing::random_ids;

using testing::check_gradients;
using testing::cpu;
using testing::random_tensor;

constexpr int64_t kRows = 12, kTableRows = 5;

/// Lookups in `terms` tables, with position ids interleaved as in a batch.
std::vector<ops::Lookup> lookups_of(const std::vector<Variable>& tables, int64_t terms) {
  std::vector<ops::Lookup> lookups{{.table = tables[0], .ids = random_ids(kRows, kTableRows, 1)}};
  const Tensor positions = random_ids(kRows * terms, kTableRows, 2);
  for (int64_t t = 1; t < terms; ++t)
    lookups.push_back(
        {.table = tables[static_cast<size_t>(t)], .ids = positions, .stride = terms - 1, .column = t - 1});
  return lookups;
}

std::vector<Tensor> random_tables(int64_t terms, int64_t columns) {
  std::vector<Tensor> tables;
  for (int64_t t = 0; t < terms; ++t)
    tables.push_back(random_tensor({kTableRows, columns}, static_cast<uint32_t>(10 + t)));
  return tables;
}

TEST(Projection, GradientsOfCentringAndScaling) {
  check_gradients(
      [](Tape& tape, const std::vector<Variable>& in) {
        return ops::scale_columns(tape, ops::center_rows(tape, in[0]), in[1]);
      },
      {random_tensor({7, 6}, 1, 2, 0.5), random_tensor({6}, 2)});
}

TEST(Projection, GradientsOfTheVarianceOfSums) {
  for (const int64_t terms : {1, 2, 9})
    check_gradients(
        [terms](Tape& tape, const std::vector<Variable>& in) {
          std::vector<ops::Lookup> lookups = lookups_of(in, terms);
          for (ops::Lookup& lookup : lookups) lookup.table = ops::center_rows(tape, lookup.table);
          return ops::sum_rstd(tape, lookups, kRows, 3);
        },
        random_tables(terms, 6));
}

TEST(Projection, GradientsOfTheGather) {
  for (const int64_t terms : {1, 2, 4}) {
    std::vector<Tensor> inputs = random_tables(terms, 8);
    inputs.push_back(random_tensor({kRows}, 3));
    inputs.push_back(random_tensor({1, 8}, 4));
    check_gradients(
        [terms](Tape& tape, const std::vector<Variable>& in) {
          const auto last = static_cast<size_t>(terms);
          return ops::projected_rows(tape, {lookups_of(in, terms), in[last], in[last + 1]}, {}, kRows, 2,
                                     DType::f64);
        },
        inputs);
  }
}

TEST(Projection, GradientsOfARotatedGather) {
  const Tensor angles = random_tensor({20, 2}, 5), others = random_tensor({20, 2}, 6);
  std::vector<int32_t> positions(kRows);
  for (int64_t r = 0; r < kRows; ++r) positions[static_cast<size_t>(r)] = static_cast<int32_t>(r - 4);
  ops::RotaryUse rotary;
  // Not of length 1, so that a wrong direction shows in the gradient.
  rotary.table = {angles, others, 2, 1};
  rotary.head_dim = 5;
  rotary.positions = Tensor::from_host<int32_t>(cpu(), {kRows}, positions);
  // The inverse of a rotation is its transpose, whatever the numbers.
  check_gradients(
      [&](Tape& tape, const std::vector<Variable>& in) {
        return ops::projected_rows(tape, {lookups_of(in, 1), {}, {}}, rotary, kRows, 1, DType::f64);
      },
      random_tables(1, 16));
}

}  // namespace
}  // namespace perceiver
