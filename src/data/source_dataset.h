// The caller's data (perceiver/dataset.h) as the loader and evaluation see it: SOS and EOS added, and every
// id, length and position checked, since nothing else has.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/modality.h"

namespace perceiver {

class SourceDataset final : public Dataset {
 public:
  /// `config` says how training data are augmented. Throws `user` for a format that contradicts itself or its
  /// tokenizer, and for a configuration that names other data.
  SourceDataset(std::shared_ptr<const DataSource> source, const DataConfig& config);

  /// What data.options should say, so that files of this kind can be read with the configuration.
  std::map<std::string, std::string> options() const;

  int64_t vocabulary() const override { return modality_->format().vocabulary; }
  int64_t axes() const override { return modality_->format().axes; }
  std::vector<int64_t> position_sizes() const override { return modality_->format().position_sizes; }
  std::string modality() const override { return format_.modality; }
  std::string tokenizer() const override { return format_.tokenizer; }
  std::string unit() const override { return format_.unit; }
  bool unbounded() const override { return source_->generated(); }

  int64_t documents(Split split) const override;
  std::string document_name(Split split, int64_t document) const override;
  int64_t document_length(Split split, int64_t document) const override;
  int64_t scored_units(Split split, int64_t document) const override;
  void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;
  void positions(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;

  bool augments() const override { return modality_->augments(); }
  void augment(std::vector<int32_t>& tokens, RandomStream& random) const override {
    modality_->augment(tokens, random);
  }
  std::span<const int32_t> mirror() const override { return modality_->mirror(); }
  uint64_t fingerprint() const override;

 private:
  /// Data ids of a document.
  int64_t length(Split split, int64_t document) const;
  void check_ids(Split split, int64_t document, int64_t first, int64_t count, const int32_t* ids) const;
  void check_positions(Split split, int64_t document, int64_t first, int64_t count,
                       const int32_t* positions) const;

  std::shared_ptr<const DataSource> source_;
  DataFormat format_;  ///< completed
  std::unique_ptr<Modality> modality_;
};

}  // namespace perceiver
