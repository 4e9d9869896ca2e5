#include "data/shards/shard_builder.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "io/checksum.h"
#include "perceiver/special_tokens.h"

namespace perceiver {
namespace {

using namespace shard_format;

constexpr int64_t narrow_vocabulary = 65536;

template <typename Element>
std::span<const std::byte> bytes_of(const std::vector<Element>& values) {
  return std::as_bytes(std::span(values));
}

}  // namespace

ShardDescription describe_shard(std::string_view modality, const Modality& opened, std::string split) {
  const SequenceFormat& format = opened.format();
  ShardDescription description;
  description.modality = modality;
  description.tokenizer = opened.tokenizer();
  description.split = std::move(split);
  description.unit = format.unit;
  description.vocabulary = format.vocabulary;
  description.axes = format.axes;
  description.positions = format.positions;
  description.position_sizes = format.position_sizes;
  description.ends = format.ends;
  return description;
}

ShardBuilder::ShardBuilder(ShardDescription description) : description_(std::move(description)) {
  PERCEIVER_ASSERT(description_.vocabulary > special_tokens && description_.vocabulary <= max_vocabulary);
  PERCEIVER_ASSERT(description_.axes >= 1 && description_.axes <= max_axes);
}

void ShardBuilder::add(std::string_view name, const TokenSequence& sequence) {
  const auto good = [&](int32_t id) { return id >= special_tokens && id < description_.vocabulary; };
  PERCEIVER_ASSERT(!sequence.ids.empty() && std::all_of(sequence.ids.begin(), sequence.ids.end(), good));
  PERCEIVER_ASSERT(sequence.units > 0 && sequence.words >= 0);
  const bool stored = description_.positions == PositionKind::stored;
  const size_t axes = static_cast<size_t>(description_.axes);
  PERCEIVER_ASSERT(sequence.positions.size() == (stored ? sequence.ids.size() * axes : 0));
  for (size_t i = 0; i < sequence.positions.size(); ++i)
    PERCEIVER_ASSERT(sequence.positions[i] >= 1 &&
                     sequence.positions[i] < description_.position_sizes[i % axes]);
  if (description_.vocabulary <= narrow_vocabulary) {
    narrow_.insert(narrow_.end(), sequence.ids.begin(), sequence.ids.end());
  } else {
    wide_.insert(wide_.end(), sequence.ids.begin(), sequence.ids.end());
  }
  positions_.insert(positions_.end(), sequence.positions.begin(), sequence.positions.end());
  tokens_ += static_cast<int64_t>(sequence.ids.size());
  ends_.push_back(static_cast<uint64_t>(tokens_));
  units_.push_back(static_cast<uint64_t>(sequence.units));
  words_.push_back(static_cast<uint64_t>(sequence.words));
  names_ += name;
  name_ends_.push_back(names_.size());
}

ShardBuilder::Sections ShardBuilder::sections() const {
  const bool narrow = description_.vocabulary <= narrow_vocabulary;
  return {narrow ? bytes_of(narrow_) : bytes_of(wide_),
          bytes_of(positions_),
          bytes_of(ends_),
          bytes_of(units_),
          bytes_of(words_),
          std::as_bytes(std::span(names_)),
          bytes_of(name_ends_)};
}

std::string ShardBuilder::header(uint64_t& file_bytes) const {
  ShardHeader header{.description = description_,
                     .token_bytes = description_.vocabulary <= narrow_vocabulary ? size_t{2} : size_t{4},
                     .documents = documents(),
                     .tokens = tokens_,
                     .sections = {}};
  const Sections parts = sections();
  uint64_t offset = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    header.sections[i] = {.offset = offset, .bytes = parts[i].size(), .checksum = checksum_of(parts[i])};
    offset = aligned(offset + parts[i].size());
  }
  std::string text = write_shard_header(header);
  file_bytes = aligned(preamble_bytes + text.size()) + offset;
  return text;
}

template <typename Sink>
void ShardBuilder::emit(Sink&& sink) const {
  Preamble preamble{};
  const std::string text = header(preamble.file_bytes);
  std::memcpy(preamble.magic, magic.data(), magic.size());
  preamble.version = version;
  preamble.header_bytes = text.size();
  preamble.header_checksum = checksum_of(std::as_bytes(std::span(text)));

  const std::array<std::byte, alignment> zeros{};
  const auto put = [&](std::span<const std::byte> bytes) {
    sink(bytes);
    sink(std::span(zeros).first(aligned(bytes.size()) - bytes.size()));
  };
  put(std::as_bytes(std::span(&preamble, 1)));
  put(std::as_bytes(std::span(text)));
  for (const std::span<const std::byte> section : sections()) put(section);
}

void ShardBuilder::write(OutputFile& file) const {
  emit([&](std::span<const std::byte> bytes) {
    if (!bytes.empty()) file.write(bytes);
  });
}

std::vector<std::byte> ShardBuilder::bytes() const {
  std::vector<std::byte> whole;
  emit([&](std::span<const std::byte> bytes) { whole.insert(whole.end(), bytes.begin(), bytes.end()); });
  return whole;
}

}  // namespace perceiver
