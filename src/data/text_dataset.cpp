#include "data/text_dataset.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "core/check.h"
#include "data/byte_tokenizer.h"
#include "data/file_list.h"

namespace perceiver {

namespace {

std::string key_name(Split split) {
  return fmt::format("data.{}", split_name(split));
}

void check_fractions(double validation, double test) {
  const auto valid = [](double fraction) { return fraction >= 0 && fraction < 1; };
  if (!valid(validation)) throw_user("data.validation_fraction must be in [0, 1), it is {}", validation);
  if (!valid(test)) throw_user("data.test_fraction must be in [0, 1), it is {}", test);
  if (validation + test >= 1)
    throw_user("data.validation_fraction and data.test_fraction leave nothing to train on: {} + {}",
               validation, test);
}

using Listing = std::array<std::vector<ListedFile>, split_count>;

/// The files of every split that has paths.
Listing list_splits(const DataConfig& config) {
  const std::vector<std::string>* paths[split_count] = {&config.train, &config.validation, &config.test};
  Listing listing;
  for (int i = 0; i < split_count; ++i) {
    if (paths[i]->empty()) continue;
    const std::string key = key_name(static_cast<Split>(i));
    listing[i] = list_files(*paths[i], key);
    if (listing[i].empty()) throw_user("{}: no file with any text in {}", key, fmt::join(*paths[i], ", "));
  }
  return listing;
}

/// Two splits must not share a file, or evaluation would be on what was trained on.
void check_disjoint(const Listing& listing) {
  std::map<std::pair<uint64_t, uint64_t>, Split> owner;
  for (int i = 0; i < split_count; ++i) {
    const auto split = static_cast<Split>(i);
    for (const ListedFile& file : listing[i]) {
      const auto [entry, fresh] = owner.try_emplace({file.device, file.inode}, split);
      if (!fresh)
        throw_user("{}: is in both {} and {}; a file can be in one split only", file.path,
                   key_name(entry->second), key_name(split));
    }
  }
}

/// Documents of a split that is to hold `fraction` of `all`: none for 0, else at least one.
int64_t share(double fraction, int64_t all) {
  if (fraction == 0) return 0;
  return std::max<int64_t>(1, std::llround(fraction * static_cast<double>(all)));
}

/// Ranks documents by `hash`: the first are validation, the next test, all others train.
std::vector<Split> choose_splits(const std::vector<uint64_t>& hash, double validation, double test) {
  const auto count = static_cast<int64_t>(hash.size());
  const int64_t for_validation = share(validation, count);
  const int64_t held_out = for_validation + share(test, count);
  if (held_out >= count)
    throw_user(
        "data.train: {} documents are too few for a validation fraction of {} and a test fraction of {}",
        count, validation, test);
  std::vector<int64_t> ranked(count);
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(), [&](int64_t a, int64_t b) { return hash[a] < hash[b]; });
  std::vector<Split> split(count, Split::train);
  for (int64_t i = 0; i < held_out; ++i)
    split[ranked[i]] = i < for_validation ? Split::validation : Split::test;
  return split;
}

}  // namespace

std::unique_ptr<TextDataset> TextDataset::open(const DataConfig& config) {
  if (config.train.empty()) throw_user("data.train names no file or folder");
  const double validation = config.validation.empty() ? config.validation_fraction : 0;
  const double test = config.test.empty() ? config.test_fraction : 0;
  check_fractions(validation, test);
  const Listing listing = list_splits(config);
  check_disjoint(listing);

  std::unique_ptr<TextDataset> data(new TextDataset);
  for (int i = 0; i < split_count; ++i) {
    for (const ListedFile& file : listing[i])
      data->documents_[i].push_back({data->files_.add(file.path, file.size), 0, file.size});
  }
  if (validation + test > 0) data->split_train(listing[0], config.seed, validation, test);
  return data;
}

void TextDataset::split_train(const std::vector<ListedFile>& files, uint64_t seed, double validation,
                              double test) {
  const std::vector<Document> corpus = std::exchange(of(Split::train), {});
  if (corpus.size() == 1) return split_bytes(corpus[0], validation, test);

  std::vector<uint64_t> hash(files.size());
  std::transform(files.begin(), files.end(), hash.begin(), [&](const ListedFile& file) {
    return XXH64(file.relative.data(), file.relative.size(), seed);
  });
  const std::vector<Split> split = choose_splits(hash, validation, test);
  for (size_t i = 0; i < corpus.size(); ++i) of(split[i]).push_back(corpus[i]);
}

void TextDataset::split_bytes(const Document& whole, double validation, double test) {
  const auto size = static_cast<double>(whole.last);
  // The millionth keeps 0.9 × 10 at 9 although 1 − 0.05 − 0.05 is a little less than 0.9.
  const auto cut = [&](double fraction) {
    return character_start(whole, static_cast<int64_t>(std::floor(size * fraction + 1e-6)));
  };
  const int64_t train_end = cut(1 - validation - test);
  const int64_t validation_end = test > 0 ? cut(1 - test) : whole.last;
  const auto add = [&](Split split, int64_t first, int64_t last, bool wanted) {
    if (!wanted) return;
    if (first >= last)
      throw_user("{}: {} bytes are too few to be split into train, validation ({}) and test ({})",
                 files_.path(whole.file), whole.last, validation, test);
    of(split).push_back({whole.file, first, last});
  };
  add(Split::train, 0, train_end, true);
  add(Split::validation, train_end, validation_end, validation > 0);
  add(Split::test, validation_end, whole.last, test > 0);
}

int64_t TextDataset::character_start(const Document& document, int64_t offset) const {
  for (int64_t start = offset; start >= std::max<int64_t>(0, offset - 3); --start) {
    uint8_t byte = 0;
    if (start < document.last) files_.read(document.file, start, {&byte, 1});
    if ((byte & 0xC0) != 0x80) return start;
  }
  return offset;  // four continuation bytes in a row are no UTF-8: any cut is as good
}

const TextDataset::Document& TextDataset::at(Split split, int64_t document) const {
  PERCEIVER_ASSERT(document >= 0 && document < documents(split));
  return of(split)[document];
}

int64_t TextDataset::vocabulary() const {
  return byte_vocabulary;
}

std::string TextDataset::tokenizer() const {
  return std::string(ByteTokenizer::kind);
}

std::string TextDataset::document_name(Split split, int64_t document) const {
  const Document& d = at(split, document);
  const std::string& path = files_.path(d.file);
  if (d.last - d.first == files_.size(d.file)) return path;
  return fmt::format("{} (bytes {} to {})", path, d.first, d.last);
}

int64_t TextDataset::document_bytes(Split split, int64_t document) const {
  const Document& d = at(split, document);
  return d.last - d.first;
}

int64_t TextDataset::document_length(Split split, int64_t document) const {
  return document_bytes(split, document) + 2;
}

void TextDataset::read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const {
  const int64_t length = document_length(split, document);
  PERCEIVER_ASSERT(first >= 0 && count >= 0 && first <= length && count <= length - first);
  if (count == 0) return;
  const Document& d = at(split, document);
  const int64_t last = first + count;
  const int64_t bytes_first = std::clamp<int64_t>(first - 1, 0, length - 2);
  const int64_t bytes_last = std::clamp<int64_t>(last - 1, 0, length - 2);
  std::vector<uint8_t> bytes(bytes_last - bytes_first);
  if (!bytes.empty()) files_.read(d.file, d.first + bytes_first, bytes);
  if (first == 0) *out++ = sos_token;
  out = std::transform(bytes.begin(), bytes.end(), out, byte_token);
  if (last == length) *out = eos_token;
}

std::unique_ptr<Dataset> open_text_dataset(const DataConfig& config) {
  return TextDataset::open(config);
}

}  // namespace perceiver
