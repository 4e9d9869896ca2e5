// How documents are drawn: in proportion to what there is to learn in them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace perceiver {

/// Documents of a split with a weight each, max(least, targets): see CropSampler. Thread-safe.
class DocumentWeights {
 public:
  virtual ~DocumentWeights() = default;
  /// The sum of all weights.
  virtual uint64_t total() const = 0;
  /// The document that `drawn`, below total(), falls on: the first one that, with all before it, weighs more.
  virtual int64_t find(uint64_t drawn) const = 0;
};

/// Weights in memory, 8 bytes each.
class WeightTable final : public DocumentWeights {
 public:
  /// Reserves space for `documents`.
  explicit WeightTable(int64_t documents) { ends_.reserve(static_cast<size_t>(documents)); }
  void add(uint64_t weight) { ends_.push_back(total() + weight); }
  uint64_t total() const override { return ends_.empty() ? 0 : ends_.back(); }
  int64_t find(uint64_t drawn) const override;

 private:
  std::vector<uint64_t> ends_;  ///< running sums
};

}  // namespace perceiver
