#include "data/source_dataset.h"

#include <algorithm>
#include <span>

#include "base/check.h"
#include "data/shared_positions.h"
#include "io/checksum.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

constexpr const char* kPlain = "tokens";

void check_config(const DataConfig& config, const DataFormat& format) {
  for (const std::vector<std::string>* paths : {&config.train, &config.validation, &config.test})
    if (!paths->empty())
      throw_user("section data names {}, but the caller passes its own data; leave it out", paths->front());
  // text is the default, so it may not have been chosen deliberately.
  if (config.type != "text" && config.type != format.modality)
    throw_user("data.type is {}, but the caller passes data of modality {}; leave it out", config.type,
               format.modality);
}

/// Position p of the modality's files is table row p + 2.
std::string position_values(const std::vector<int64_t>& sizes) {
  std::vector<int64_t> values;
  for (const int64_t size : sizes) {
    if (size < 3)
      throw_user(
          "DataFormat::position_sizes has {}; 0 is padding and 1 is the start, so the smallest size is 3",
          size);
    values.push_back(size - 2);
  }
  return fmt::format("{}", fmt::join(values, ","));
}

std::map<std::string, std::string> plain_options(const DataFormat& format) {
  if (format.vocabulary <= special_tokens)
    throw_user("DataFormat::vocabulary is {}; ids 0 to {} are special, so the smallest vocabulary is {}",
               format.vocabulary, special_tokens - 1, special_tokens + 1);
  std::map<std::string, std::string> options{{"values", std::to_string(format.vocabulary - special_tokens)}};
  if (!format.position_sizes.empty()) options["position_values"] = position_values(format.position_sizes);
  if (!format.ends) options["ends"] = "false";
  return options;
}

/// A tokenizer decides what the caller may have left at its default, and must not have set to anything else.
void check_agreement(const DataFormat& given, const SequenceFormat& format) {
  const auto refuse = [](const char* member, const auto& mine, const auto& its) {
    throw_user("DataFormat::{} is {}, but the tokenizer's is {}; leave it out", member, mine, its);
  };
  if (given.vocabulary != 0 && given.vocabulary != format.vocabulary)
    refuse("vocabulary", given.vocabulary, format.vocabulary);
  if (!given.position_sizes.empty() && given.position_sizes != format.position_sizes)
    refuse("position_sizes", fmt::format("[{}]", fmt::join(given.position_sizes, ", ")),
           fmt::format("[{}]", fmt::join(format.position_sizes, ", ")));
  if (!given.ends && format.ends) refuse("ends", given.ends, format.ends);
  if (given.unit != DataFormat().unit && given.unit != format.unit) refuse("unit", given.unit, format.unit);
}

DataFormat checked(DataFormat format) {
  if (!format.tokenizer.empty()) return format;
  if (format.modality != kPlain)
    throw_user("DataFormat::modality is {}, so DataFormat::tokenizer must say how its ids were made",
               format.modality);
  format.tokenizer = pack_tokenizer(kPlain, plain_options(format));
  return format;
}

}  // namespace

SourceDataset::SourceDataset(std::shared_ptr<const DataSource> source, const DataConfig& config)
    : source_(std::move(source)) {
  const DataFormat given = source_->format();
  check_config(config, given);
  format_ = checked(given);
  modality_ = restore_modality(format_.modality, format_.tokenizer, config.options);
  const SequenceFormat& format = modality_->format();
  check_agreement(given, format);
  if (format_.modality != kPlain) format_.unit = format.unit;
  format_.tokenizer = modality_->tokenizer();  // with all its options, as files of that kind have it
  format_.vocabulary = format.vocabulary;
  format_.position_sizes = format.position_sizes;
  format_.ends = format.ends;
}

std::map<std::string, std::string> SourceDataset::options() const {
  if (format_.modality == kPlain) return plain_options(format_);
  return {};
}

int64_t SourceDataset::documents(Split split) const {
  const int64_t count = source_->documents(split);
  if (count < 0) throw_user("the data says that it has {} {} documents", count, split_name(split));
  return count;
}

std::string SourceDataset::document_name(Split split, int64_t document) const {
  return source_->name(split, document);
}

int64_t SourceDataset::length(Split split, int64_t document) const {
  const int64_t ids = source_->length(split, document), fixed = modality_->format().fixed_length;
  if (ids < 1)
    throw_user("{}: its length is {}; a document has at least one id", document_name(split, document), ids);
  if (fixed > 0 && ids != fixed)
    throw_user("{}: its length is {}, but its tokenizer makes sequences of {} ids",
               document_name(split, document), ids, fixed);
  return ids;
}

int64_t SourceDataset::document_length(Split split, int64_t document) const {
  return 1 + length(split, document) + (format_.ends ? 1 : 0);
}

int64_t SourceDataset::scored_units(Split split, int64_t document) const {
  return source_->units(split, document);
}

void SourceDataset::read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const {
  const int64_t ids = length(split, document), all = 1 + ids + (format_.ends ? 1 : 0);
  PERCEIVER_ASSERT(first >= 0 && count >= 0 && first <= all && count <= all - first);
  if (count == 0) return;
  const int64_t begin = std::clamp<int64_t>(first - 1, 0, ids);
  const int64_t read = std::clamp<int64_t>(first + count - 1, 0, ids) - begin;
  if (first == 0) *out++ = sos_token;
  if (read > 0) {
    std::fill_n(out, read, pad_token);  // what is not written is noticed
    source_->read(split, document, begin, read, out);
    check_ids(split, document, begin, read, out);
  }
  if (first + count == ids + 2) out[read] = eos_token;
}

void SourceDataset::check_ids(Split split, int64_t document, int64_t first, int64_t count,
                              const int32_t* ids) const {
  for (int64_t i = 0; i < count; ++i)
    if (ids[i] < special_tokens || ids[i] >= format_.vocabulary)
      throw_user("{}: the id at index {} is {}; ids of data are {} to {}", document_name(split, document),
                 first + i, ids[i], int32_t{special_tokens}, format_.vocabulary - 1);
}

void SourceDataset::positions(Split split, int64_t document, int64_t first, int64_t count,
                              int32_t* out) const {
  const SequenceFormat& format = modality_->format();
  if (format.positions == PositionKind::counted)
    return Dataset::positions(split, document, first, count, out);
  if (format.positions == PositionKind::shared) return copy_shared_positions(format, first, count, out);
  const int64_t ids = length(split, document);
  const int64_t begin = std::clamp<int64_t>(first - 1, 0, ids);
  const int64_t read = std::clamp<int64_t>(first + count - 1, 0, ids) - begin;
  std::fill_n(out, count * format.axes, 1);  // of SOS, and of EOS, after which nothing comes
  if (read == 0) return;
  int32_t* data = out + (begin + 1 - first) * format.axes;
  source_->positions(split, document, begin, read, data);
  check_positions(split, document, begin, read, data);
}

void SourceDataset::check_positions(Split split, int64_t document, int64_t first, int64_t count,
                                    const int32_t* positions) const {
  const auto axes = static_cast<int64_t>(format_.position_sizes.size());
  for (int64_t i = 0; i < count * axes; ++i) {
    const int64_t size = format_.position_sizes[static_cast<size_t>(i % axes)];
    if (positions[i] < 1 || positions[i] >= size)
      throw_user("{}: the position at index {} is {} on axis {}; it must be 1 to {}",
                 document_name(split, document), first + i / axes, positions[i], i % axes, size - 1);
  }
}

uint64_t SourceDataset::fingerprint() const {
  const uint64_t own = source_->fingerprint();
  if (own == 0) return 0;
  Checksum checksum;
  checksum.update(std::as_bytes(std::span(format_.tokenizer)));
  checksum.update(std::as_bytes(std::span(&own, 1)));
  return checksum.digest();
}

}  // namespace perceiver
