// Shards, in files or in memory, as a dataset.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "data/dataset.h"
#include "data/modality.h"
#include "data/shards/shard_set.h"

namespace perceiver {

/// Documents of any modality: SOS, the data tokens from a shard, EOS if the modality has one.
class ShardDataset final : public Dataset {
 public:
  /// The shards of a folder made by `perceiver data build`. `options` are for training. Reads the summary and
  /// the first shard, and looks whether the others are there in full; each is opened when it is first read.
  /// Throws `user` if the folder is unfinished or damaged, or if the options contradict the shards; reading
  /// does, too, where damage shows only then.
  static std::unique_ptr<ShardDataset> open(const std::string& folder,
                                            const std::map<std::string, std::string>& options);
  /// The files that `config` names, encoded into memory now, on all CPUs. Files of folders that cannot be
  /// used are skipped and noted. Throws `user` as `list_splits` does, if no file of a split can be used, or
  /// if the tokens would need more than `max_memory_bytes`.
  static std::unique_ptr<ShardDataset> encode(const DataConfig& config);
  static constexpr int64_t max_memory_bytes = int64_t{8} << 30;

  int64_t vocabulary() const override { return modality_->format().vocabulary; }
  int64_t axes() const override { return modality_->format().axes; }
  std::vector<int64_t> position_sizes() const override { return modality_->format().position_sizes; }
  std::string modality() const override { return name_; }
  std::string tokenizer() const override { return modality_->tokenizer(); }
  std::string unit() const override { return modality_->format().unit; }
  int64_t documents(Split split) const override { return of(split).documents(); }
  std::string document_name(Split split, int64_t document) const override;
  int64_t document_length(Split split, int64_t document) const override;
  int64_t scored_units(Split split, int64_t document) const override;
  int64_t words(Split split, int64_t document) const override;
  int64_t tokens(Split split) const override {
    return of(split).tokens() + documents(split) * (1 + end_tokens());
  }
  std::unique_ptr<DocumentWeights> weights(Split split, int64_t least) const override;
  void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;
  void positions(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;
  bool augments() const override { return modality_->augments(); }
  void augment(std::vector<int32_t>& ids, RandomStream& random) const override {
    modality_->augment(ids, random);
  }
  std::span<const int32_t> mirror() const override { return modality_->mirror(); }
  std::vector<std::string> notes() const override { return notes_; }
  std::vector<FileRemark> skipped() const override { return skipped_; }
  std::vector<FileRemark> repaired() const override { return repaired_; }
  /// Of the tokenizer, and of the checksums of the tokens, positions, lengths and units of every shard, in
  /// order.
  uint64_t fingerprint() const override;

 private:
  using Place = ShardSet::Place;

  ShardDataset(std::string name, std::shared_ptr<const Modality> modality)
      : name_(std::move(name)), modality_(std::move(modality)) {}
  const ShardSet& of(Split split) const { return parts_[static_cast<size_t>(split)]; }
  ShardSet& of(Split split) { return parts_[static_cast<size_t>(split)]; }
  Place find(Split split, int64_t document) const { return of(split).find(document); }
  /// Tokens at the end of a document that are not stored.
  int64_t end_tokens() const { return modality_->format().ends ? 1 : 0; }
  void stored_positions(const Place& place, int64_t first, int64_t count, int32_t* out) const;

  std::string name_;
  std::shared_ptr<const Modality> modality_;  ///< shared with the checks of shards that are opened later
  std::array<ShardSet, split_count> parts_;
  std::vector<std::string> notes_;
  std::vector<FileRemark> skipped_, repaired_;
};

}  // namespace perceiver
