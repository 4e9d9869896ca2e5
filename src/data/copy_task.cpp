#include "data/copy_task.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <vector>

#include "base/check.h"
#include "data/text/byte_tokenizer.h"
#include "perceiver/experimental/random.h"

namespace perceiver {
namespace {

constexpr uint32_t checksums = 16;

/// A random checksum that belongs to `split`, uniformly distributed.
uint32_t draw_checksum(Split split, RandomStream& random) {
  if (split == Split::validation) return 0;
  if (split == Split::test) return 1;
  return 2 + static_cast<uint32_t>(random.below(checksums - 2));
}

/// All bytes are random except for the low four bits of the last, which make the checksum come out right.
std::vector<uint8_t> draw_payload(Split split, int64_t length, RandomStream& random) {
  std::vector<uint8_t> payload(length);
  uint32_t word = 0, sum = 0;
  for (int64_t i = 0; i < length; ++i) {
    word = i % 4 == 0 ? random.next() : word >> 8;
    payload[i] = static_cast<uint8_t>(word);
    sum += payload[i];
  }
  const uint32_t others = sum - payload.back();
  const uint32_t low = (draw_checksum(split, random) - others) % checksums;
  payload.back() = static_cast<uint8_t>(payload.back() / checksums * checksums + low);
  return payload;
}

CopyPositions positions_named(const std::string& name) {
  if (name != "counted" && name != "centered")
    throw_user("data.options: positions is {}, but of data.type copy it is counted or centered", name);
  return name == "centered" ? CopyPositions::centered : CopyPositions::counted;
}

int64_t length_named(const std::string& text) {
  int64_t length = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), length);
  if (error != std::errc() || end != text.data() + text.size())
    throw_user("data.options: shortest is {}, but it must be a length", text);
  return length;
}

CopyOptions options_of(const DataConfig& config) {
  CopyOptions options;
  for (const auto& [name, value] : config.options) {
    if (name == "positions") {
      options.positions = positions_named(value);
    } else if (name == "shortest") {
      options.shortest = length_named(value);
    } else {
      throw_user("data.options: data.type copy has no option {}; it has positions and shortest", name);
    }
  }
  return options;
}

}  // namespace

CopyTask::CopyTask(int64_t length, uint64_t seed, const CopyOptions& options)
    : length_(length), seed_(seed), options_(options) {
  if (length < min_length || length > max_length)
    throw_user("data.copy_length must be from {} to {}, but it is {}", min_length, max_length, length);
  if (options.positions == CopyPositions::centered && length % 2 != 0)
    throw_user("data.copy_length is {}, but centered positions need an even length", length);
  if (options.shortest != 0 && (options.shortest < min_length || options.shortest > length))
    throw_user("data.options: shortest must be from {} to data.copy_length, {}, but it is {}", min_length,
               length, options.shortest);
}

int64_t CopyTask::document_length(Split split, int64_t document) const {
  if (options_.shortest == 0) return length_;
  constexpr uint32_t kLengths = 8;  // beside the splits
  RandomStream random(seed_, RandomPurpose::copy_task, static_cast<uint64_t>(document),
                      kLengths + static_cast<uint32_t>(split));
  if (random.below(2) == 0) return length_;
  const double ratio = static_cast<double>(length_) / static_cast<double>(options_.shortest);
  const double length = static_cast<double>(options_.shortest) * std::pow(ratio, random.uniform());
  return std::clamp(static_cast<int64_t>(length) / 2 * 2, min_length, length_);
}

int64_t CopyTask::vocabulary() const {
  return byte_vocabulary;
}

std::string CopyTask::tokenizer() const {
  return std::string(ByteTokenizer::kind);
}

std::string CopyTask::document_name(Split split, int64_t document) const {
  return fmt::format("copy task, {} sequence {}", split_name(split), document);
}

std::vector<int64_t> CopyTask::position_sizes() const {
  if (options_.positions == CopyPositions::counted) return {};
  return {max_length + 1};
}

void CopyTask::positions(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const {
  if (options_.positions == CopyPositions::counted)
    return Dataset::positions(split, document, first, count, out);
  const int64_t before = (max_length - document_length(split, document)) / 2;
  std::iota(out, out + count, static_cast<int32_t>(1 + before + first));
}

void CopyTask::read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const {
  PERCEIVER_ASSERT(document >= 0 && document < sequences);
  const int64_t length = document_length(split, document), half = (length - 1) / 2;
  PERCEIVER_ASSERT(first >= 0 && count >= 0 && first <= length && count <= length - first);
  RandomStream random(seed_, RandomPurpose::copy_task, static_cast<uint64_t>(document),
                      static_cast<uint32_t>(split));
  const std::vector<uint8_t> payload = draw_payload(split, half, random);
  const int64_t last = length - 1;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = first + i;
    const int64_t byte =
        token <= half ? token - 1 : last - 1 - token;  // mirrored around the middle of the palindrome
    out[i] = token == 0 ? sos_token : token == last ? eos_token : byte_token(payload[byte]);
  }
}

std::unique_ptr<Dataset> open_copy_task(const DataConfig& config) {
  return std::make_unique<CopyTask>(config.copy_length, config.seed, options_of(config));
}

}  // namespace perceiver
