// Documents in memory, for evaluation.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/modality.h"

namespace perceiver {

/// The same documents in every split: SOS, the data ids, and EOS if the modality's documents end with it.
/// The modality and the documents must outlive this.
class DocumentList final : public Dataset {
 public:
  /// Throws `user` for ids or positions that are none of the modality's, naming the document.
  DocumentList(const Modality& modality, std::span<const TokenSequence> documents);

  int64_t vocabulary() const override { return modality_.format().vocabulary; }
  int64_t axes() const override { return modality_.format().axes; }
  std::vector<int64_t> position_sizes() const override { return modality_.format().position_sizes; }
  std::string modality() const override { return std::string(modality_.name()); }
  std::string tokenizer() const override { return modality_.tokenizer(); }
  std::string unit() const override { return modality_.format().unit; }
  int64_t documents(Split) const override { return static_cast<int64_t>(tokens_.size()); }
  std::string document_name(Split, int64_t document) const override {
    return "document " + std::to_string(document);
  }
  int64_t document_length(Split, int64_t document) const override {
    return static_cast<int64_t>(tokens_[static_cast<size_t>(document)].size());
  }
  int64_t scored_units(Split, int64_t document) const override {
    return units_[static_cast<size_t>(document)];
  }
  void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;
  void positions(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;

 private:
  const Modality& modality_;
  std::span<const TokenSequence> documents_;
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<int64_t> units_;
};

}  // namespace perceiver
