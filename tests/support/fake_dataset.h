// A dataset in memory whose tokens encode their place, for tests of crops, windows and the loader.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "data/dataset.h"
#include "model/batch.h"

namespace perceiver {

/// Document d has the given length; its token i is 1000 d + i + 3, which lets tests check rows against (d,
/// i). All splits are the same.
class FakeDataset : public Dataset {
 public:
  explicit FakeDataset(std::vector<int64_t> lengths, int64_t first_target = 1)
      : lengths_(std::move(lengths)), first_target_(first_target) {}

  static int32_t token(int64_t document, int64_t index) {
    return static_cast<int32_t>(1000 * document + index + 3);
  }

  int64_t vocabulary() const override { return 1000 * static_cast<int64_t>(lengths_.size()) + 3; }
  std::string tokenizer() const override { return "none"; }
  std::string unit() const override { return "token"; }
  int64_t documents(Split) const override { return static_cast<int64_t>(lengths_.size()); }
  std::string document_name(Split, int64_t document) const override { return std::to_string(document); }
  int64_t document_length(Split, int64_t document) const override { return lengths_.at(document); }
  int64_t first_target(Split, int64_t) const override { return first_target_; }
  int64_t scored_units(Split, int64_t document) const override {
    return lengths_.at(document) - first_target_;
  }
  void read(Split, int64_t document, int64_t first, int64_t count, int32_t* out) const override {
    if (document == broken_document) throw_user("document {} is broken", document);
    ++reads;
    PERCEIVER_ASSERT(first >= 0 && count >= 0 && first + count <= lengths_.at(document));
    for (int64_t i = 0; i < count; ++i) out[i] = token(document, first + i);
  }

  int64_t broken_document = -1;  ///< reading it throws
  mutable std::atomic<int64_t> reads = 0;

 private:
  std::vector<int64_t> lengths_;
  int64_t first_target_;
};

inline void expect_equal(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.size, b.size);
  EXPECT_EQ(a.length, b.length);
  EXPECT_EQ(a.axes, b.axes);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.targets, b.targets);
  EXPECT_EQ(a.positions, b.positions);
  EXPECT_EQ(a.lengths, b.lengths);
}

}  // namespace perceiver
