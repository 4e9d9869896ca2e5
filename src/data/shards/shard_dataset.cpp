#include "data/shards/shard_dataset.h"

#include <algorithm>
#include <atomic>
#include <span>
#include <utility>

#include "base/check.h"
#include "data/file_notes.h"
#include "data/shards/shard_encode.h"
#include "data/shards/shard_summary.h"
#include "data/shards/shard_weights.h"
#include "data/shared_positions.h"
#include "data/text/text_check.h"
#include "io/checksum.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

/// The files of `config`, split into train, validation and test.
SplitListing split_files(const DataConfig& config, const ModalityKind& kind, const ModalityOptions& options) {
  SplitListing listing = list_splits(config, kind, text_file_check(kind, options));
  const double validation = validation_share(config, listing), test = test_share(config, listing);
  if (validation + test == 0) return listing;
  const std::vector<ListedFile> all = std::exchange(listing.of(Split::train), {});
  const std::vector<Split> chosen = choose_splits(all, config.seed, validation, test);
  for (size_t i = 0; i < all.size(); ++i) listing.of(chosen[i]).push_back(all[i]);
  return listing;
}

void append(std::vector<FileRemark>& all, const std::vector<FileRemark>& some) {
  all.insert(all.end(), some.begin(), some.end());
}

/// Throws unless the shard matches the opened modality.
void check_same(const ShardFile& shard, const ShardDescription& wanted) {
  const ShardDescription& d = shard.description();
  const bool same = d.modality == wanted.modality && d.split == wanted.split &&
                    d.tokenizer == wanted.tokenizer && d.vocabulary == wanted.vocabulary &&
                    d.axes == wanted.axes && d.unit == wanted.unit && d.positions == wanted.positions &&
                    d.position_sizes == wanted.position_sizes && d.ends == wanted.ends;
  if (!same)
    throw_user(
        "{}: has another modality, tokenizer or split than its folder's first shard and summary; rebuild "
        "the folder",
        shard.source());
}

/// Sets what the summary of an earlier version does not tell, and checks that every file is whole.
void complete_entries(const std::filesystem::path& folder, std::vector<ShardEntry>& entries) {
  run_in_parallel(static_cast<int64_t>(entries.size()), 0, [&](int64_t i) {
    ShardEntry& entry = entries[static_cast<size_t>(i)];
    const std::filesystem::path path = folder / entry.file;
    std::error_code error;
    const auto bytes = static_cast<int64_t>(std::filesystem::file_size(path, error));
    if (!error && bytes != entry.bytes)
      throw_user("{}: has {} bytes, but {} lists {}; it was truncated or replaced, rebuild the folder",
                 path.string(), bytes, summary_file_name, entry.bytes);
    if (!error && entry.content) return;
    const ShardFile shard = ShardFile::open(path);  // says why if it cannot
    if (shard.fingerprint() != entry.fingerprint)
      throw_user("{}: is not the shard listed in {}; rebuild the folder", shard.source(), summary_file_name);
    entry.content = content_of(shard);
  });
}

}  // namespace

std::unique_ptr<ShardDataset> ShardDataset::open(const std::string& folder,
                                                 const std::map<std::string, std::string>& options) {
  ShardSummary summary = read_summary(folder);
  if (summary.shards.empty()) throw_user("{}: contains no shards", folder);
  const std::filesystem::path path = folder;
  complete_entries(path, summary.shards);
  const ShardFile first = ShardFile::open(path / summary.shards[0].file);
  const ShardDescription& d = first.description();
  std::unique_ptr<ShardDataset> data(
      new ShardDataset(d.modality, restore_modality(d.modality, d.tokenizer, options)));
  for (ShardEntry& entry : summary.shards) {
    const Split split = entry.content.value().split;
    const auto check = [modality = data->modality_, name = data->name_, split](const ShardFile& shard) {
      check_same(shard, describe_shard(name, *modality, std::string(split_name(split))));
    };
    std::filesystem::path file = path / entry.file;
    data->of(split).add(std::move(file), std::move(entry), check);
  }
  for (const Split split : {Split::train, Split::validation, Split::test})
    if (data->of(split).shards() > 0) data->of(split).open(0);
  data->skipped_ = std::move(summary.skipped);
  data->repaired_ = std::move(summary.repaired);
  return data;
}

std::unique_ptr<ShardDataset> ShardDataset::encode(const DataConfig& config) {
  const ModalityKind& kind = find_modality(config.type);
  const ModalityOptions options(kind, config.options);
  std::unique_ptr<ShardDataset> data(new ShardDataset(config.type, kind.open(options)));
  SplitListing listing = split_files(config, kind, options);
  const std::vector<ShardPlan> plans = plan_shards(listing.files, *data->modality_, default_shard_tokens);

  std::atomic<int64_t> bytes = 0;
  std::vector<std::unique_ptr<ShardFile>> shards(plans.size());
  run_in_parallel(static_cast<int64_t>(plans.size()), 0, [&](int64_t i) {
    const auto index = static_cast<size_t>(i);
    const ShardBuilder builder = encode_shard(plans[index], kind, *data->modality_, config.strict, {});
    shards[index] = std::make_unique<ShardFile>(
        ShardFile::parse(builder.bytes(), fmt::format("data.{}", split_name(plans[index].split))));
    bytes += shards[index]->file_bytes();
    if (bytes > max_memory_bytes)
      throw_user(
          "the data needs more than {} GiB of memory as tokens; build shards first: "
          "perceiver data build --modality {}",
          max_memory_bytes >> 30, config.type);
  });
  std::array<std::vector<FileRemark>, split_count> skipped;
  for (size_t i = 0; i < plans.size(); ++i) {
    append(skipped[static_cast<size_t>(plans[i].split)], shards[i]->description().skipped);
    append(data->repaired_, shards[i]->description().repaired);
    data->of(plans[i].split).add(std::move(*shards[i]));
  }
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const std::vector<FileRemark>& some = skipped[static_cast<size_t>(split)];
    if (!listing.of(split).empty() && data->documents(split) == 0)
      throw_user("data.{}: no file can be used; {}", split_name(split), note_remarks(some, "skipped"));
    append(listing.skipped, some);
  }
  data->notes_ = std::move(listing.notes);
  data->skipped_ = std::move(listing.skipped);
  add_note(data->notes_, data->skipped_, "skipped");
  add_note(data->notes_, data->repaired_, "repaired");
  return data;
}

uint64_t ShardDataset::fingerprint() const {
  Checksum checksum;
  const auto add = [&](uint64_t number) { checksum.update(std::as_bytes(std::span(&number, 1))); };
  const std::string tokenizer = modality_->tokenizer();
  checksum.update(std::as_bytes(std::span(tokenizer)));
  for (const ShardSet& part : parts_) {
    add(static_cast<uint64_t>(part.shards()));
    for (int64_t i = 0; i < part.shards(); ++i) add(part.content(i).checksum);
  }
  return checksum.digest();
}

std::unique_ptr<DocumentWeights> ShardDataset::weights(Split split, int64_t least) const {
  return std::make_unique<ShardWeights>(of(split), least, end_tokens());
}

std::string ShardDataset::document_name(Split split, int64_t document) const {
  const Place place = find(split, document);
  return place.shard->document_name(place.document);
}

int64_t ShardDataset::document_length(Split split, int64_t document) const {
  const Place place = find(split, document);
  return place.shard->document_tokens(place.document) + 1 + end_tokens();
}

int64_t ShardDataset::scored_units(Split split, int64_t document) const {
  const Place place = find(split, document);
  return place.shard->document_units(place.document);
}

int64_t ShardDataset::words(Split split, int64_t document) const {
  const Place place = find(split, document);
  return place.shard->document_words(place.document);
}

void ShardDataset::read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const {
  const Place place = find(split, document);
  const int64_t tokens = place.shard->document_tokens(place.document);
  const int64_t length = tokens + 1 + end_tokens();
  PERCEIVER_ASSERT(first >= 0 && count >= 0 && first <= length && count <= length - first);
  if (count == 0) return;
  const int64_t data_first = std::clamp<int64_t>(first - 1, 0, tokens);
  const int64_t data_last = std::clamp<int64_t>(first + count - 1, 0, tokens);
  if (first == 0) *out++ = sos_token;
  place.shard->read(place.document, data_first, data_last - data_first, out);
  if (first + count == tokens + 2) out[data_last - data_first] = eos_token;
}

void ShardDataset::positions(Split split, int64_t document, int64_t first, int64_t count,
                             int32_t* out) const {
  switch (modality_->format().positions) {
    case PositionKind::counted:
      return Dataset::positions(split, document, first, count, out);
    case PositionKind::shared:
      return copy_shared_positions(modality_->format(), first, count, out);
    case PositionKind::stored:
      return stored_positions(find(split, document), first, count, out);
  }
}

void ShardDataset::stored_positions(const Place& place, int64_t first, int64_t count, int32_t* out) const {
  const int64_t tokens = place.shard->document_tokens(place.document);
  const int64_t data_first = std::clamp<int64_t>(first - 1, 0, tokens);
  const int64_t data_last = std::clamp<int64_t>(first + count - 1, 0, tokens);
  std::fill_n(out, count * axes(), 1);
  int32_t* data_out = out + (data_first + 1 - first) * axes();
  place.shard->read_positions(place.document, data_first, data_last - data_first, data_out);
}

}  // namespace perceiver
