// Shards, in files or in memory, as a dataset.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "data/dataset.h"
#include "data/modality.h"
#include "data/shards/shard_file.h"

namespace perceiver {

/// Documents of any modality: SOS, the data tokens from a shard, EOS if the modality has one.
class ShardDataset final : public Dataset {
 public:
  /// The shards of a folder made by `perceiver data build`. `options` are for training. Throws `user` if the
  /// folder is unfinished or damaged, or if the options contradict the shards.
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
  int64_t documents(Split split) const override { return of(split).ends.empty() ? 0 : of(split).ends.back(); }
  std::string document_name(Split split, int64_t document) const override;
  int64_t document_length(Split split, int64_t document) const override;
  int64_t scored_units(Split split, int64_t document) const override;
  int64_t words(Split split, int64_t document) const override;
  void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;
  void positions(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override;
  bool augments() const override { return modality_->augments(); }
  void augment(std::vector<int32_t>& ids, RandomStream& random) const override {
    modality_->augment(ids, random);
  }
  std::vector<std::string> notes() const override { return notes_; }
  std::vector<FileRemark> skipped() const override { return skipped_; }
  std::vector<FileRemark> repaired() const override { return repaired_; }
  /// Of the tokenizer, and of the checksums of the tokens, positions, lengths and units of every shard, in
  /// order.
  uint64_t fingerprint() const override;

 private:
  struct Part {
    std::vector<ShardFile> shards;
    std::vector<int64_t> ends;  ///< running sums of their document counts
  };
  struct Place {
    const ShardFile& shard;
    int64_t document;
  };

  ShardDataset(std::string name, std::unique_ptr<Modality> modality)
      : name_(std::move(name)), modality_(std::move(modality)) {}
  const Part& of(Split split) const { return parts_[static_cast<size_t>(split)]; }
  void add(Split split, ShardFile shard);
  Place find(Split split, int64_t document) const;
  void shared_positions(int64_t first, int64_t count, int32_t* out) const;
  void stored_positions(const Place& place, int64_t first, int64_t count, int32_t* out) const;

  std::string name_;
  std::unique_ptr<Modality> modality_;
  std::array<Part, split_count> parts_;
  std::vector<std::string> notes_;
  std::vector<FileRemark> skipped_, repaired_;
};

}  // namespace perceiver
