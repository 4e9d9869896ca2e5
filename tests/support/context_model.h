// A cross-attention block whose keys and values come from random tokens and positions, for tests of both
// projections of the context.
#pragma once

#include <gtest/gtest.h>

#include "model/positions.h"
#include "model/precision.h"
#include "model/projection.h"
#include "ops/projection.h"
#include "perceiver/experimental/host_values.h"
#include "tests/support/small_model.h"

namespace perceiver::testing {

inline Tensor random_ids(int64_t count, int32_t below, uint32_t seed) {
  std::mt19937 generator(seed);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(generator() % static_cast<uint32_t>(below));
  return Tensor::from_host<int32_t>(cpu(), {count}, ids);
}

/// Keys and values of random tokens at random positions, and the gradients of a random functional of them.
struct KeysAndValues {
  std::vector<double> kv, gradients;
};

inline constexpr int64_t kExamples = 3, kColumns = 700, kVocabulary = 61, kChannels = 64;
constexpr int32_t kPositions[] = {702, 9};

class ContextModel {
 public:
  ContextModel(DeviceContext& context, DType type, bool absolute)
      : context_(context), type_(type), absolute_(absolute) {
    config_.input_channels = kChannels;
    config_.cross_heads = 4;
    config_.position_encoding = absolute ? PositionEncoding::absolute : PositionEncoding::rotary;
    block_.declare(store, "cross", config_);
    store.declare(tokens_, "tokens", {kVocabulary, kChannels}, {Initializer::truncated_normal, 1, {}});
    for (size_t axis = 0; absolute && axis < 2; ++axis)
      store.declare(positions_[axis], "positions." + std::to_string(axis), {kPositions[axis], kChannels},
                    {Initializer::truncated_normal, 1, {}});
    store.allocate(context, type);
  }

  KeysAndValues run(bool tables, const std::vector<double>& d_kv) {
    const int64_t rows = kExamples * kColumns;
    Tape tape(context_, true);
    BlockPass pass;
    pass.batch = kExamples;
    pass.key_positions = ids(1, 700, 3);
    pass.rotary = make_rotary_table(context_, type_, config_, 4, kChannels / 4, 800);
    store.start_gradients();
    const Variable kv =
        block_.keys_and_values(tape, tables ? by_tables(tape, rows) : directly(tape, rows), pass, type_);
    const Tensor gradient = Tensor::empty(context_, type_, kv.shape());
    fill(gradient, [&](int64_t i) { return d_kv[static_cast<size_t>(i)]; });
    const std::vector<double> values = host_doubles(kv.value);
    tape.give(kv, gradient);
    tape.backward();
    store.finish_gradients();
    return {values, host_doubles(store.gradients())};
  }

  ParameterStore store;

 private:
  Tensor ids(int64_t axes, int32_t below, uint32_t seed) const {
    const Tensor host = random_ids(kExamples * kColumns * axes, below, seed);
    return Tensor::from_host<int32_t>(context_, host.shape(), host.to_host<int32_t>());
  }
  std::vector<ops::Lookup> lookups(const Variable& tokens, const Variable& first,
                                   const Variable& second) const {
    std::vector<ops::Lookup> result{{.table = tokens, .ids = ids(1, kVocabulary, 1)}};
    if (!absolute_) return result;
    const Tensor positions = ids(2, kPositions[1], 2);
    result.push_back({.table = first, .ids = positions, .stride = 2, .column = 0});
    result.push_back({.table = second, .ids = positions, .stride = 2, .column = 1});
    return result;
  }
  Context directly(Tape& tape, int64_t rows) const {
    return {ops::embedding(tape, lookups(tokens_, positions_[0], positions_[1]), rows, type_), {}, {}};
  }
  Context by_tables(Tape& tape, int64_t rows) const {
    if (!absolute_) return {{}, lookups(store.unrounded(tokens_), {}, {}), {}};
    const auto centred = [&](const Variable& table) {
      return ops::center_rows(tape, store.unrounded(table));
    };
    Context result{{}, lookups(centred(tokens_), centred(positions_[0]), centred(positions_[1])), {}};
    result.rstd = ops::sum_rstd(tape, result.tables, rows, kExamples);
    return result;
  }

  DeviceContext& context_;
  DType type_;
  bool absolute_;
  ModelConfig config_;
  Variable tokens_, positions_[2];
  CrossBlock block_;
};

inline double distance(const std::vector<double>& a, const std::vector<double>& b, int64_t first,
                       int64_t count) {
  double sum = 0;
  for (auto i = static_cast<size_t>(first); i < static_cast<size_t>(first + count); ++i)
    sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}

}  // namespace perceiver::testing
