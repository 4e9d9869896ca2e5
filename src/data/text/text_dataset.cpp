#include "data/text/text_dataset.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/utf8.h"
#include "data/file_notes.h"
#include "data/modality.h"
#include "data/text/byte_tokenizer.h"
#include "data/text/word_counter.h"
#include "io/checksum.h"

namespace perceiver {

std::unique_ptr<TextDataset> TextDataset::open(const DataConfig& config) {
  const ModalityKind& kind = find_modality("text");
  const TextEncoding encoding = text_encoding(ModalityOptions(kind, config.options));
  SplitListing listing = list_splits(config, kind);

  std::unique_ptr<TextDataset> data(new TextDataset);
  for (const Split split : {Split::train, Split::validation, Split::test})
    data->add_files(split, encoding, config.strict, listing);
  require_files(config, listing);
  data->split_train(listing.of(Split::train), config.seed, validation_share(config, listing),
                    test_share(config, listing));
  data->notes_ = std::move(listing.notes);
  data->skipped_ = std::move(listing.skipped);
  add_note(data->notes_, data->skipped_, "skipped");
  add_note(data->notes_, data->repaired_, "repaired");
  return data;
}

void TextDataset::add_files(Split split, TextEncoding encoding, bool strict, SplitListing& listing) {
  std::vector<ListedFile>& files = listing.of(split);
  std::vector<TextCheck> checks = check_text_files(files, encoding);
  std::vector<std::string> faults;
  for (const TextCheck& check : checks)
    faults.push_back(strict && check.fault.empty() && !check.repairs.empty() ? check.repairs[0]
                                                                             : check.fault);
  for (size_t i = 0; i < files.size(); ++i) {
    if (!faults[i].empty()) continue;
    const int64_t file = files_.add(files[i].path, files[i].size);
    of(split).push_back({file, checks[i].first, checks[i].last});
    texts_.push_back({checks[i].first, checks[i].last, checks[i].checksum});
    for (std::string& repair : checks[i].repairs) repaired_.push_back({files[i].relative, std::move(repair)});
  }
  drop_files(files, faults, fmt::format("data.{}", split_name(split)), listing.skipped);
}

void TextDataset::split_train(const std::vector<ListedFile>& files, uint64_t seed, double validation,
                              double test) {
  if (validation + test == 0) return;
  const std::vector<Document> corpus = std::exchange(of(Split::train), {});
  if (corpus.size() == 1) return split_bytes(corpus[0], validation, test);

  const std::vector<Split> split = choose_splits(files, seed, validation, test);
  for (size_t i = 0; i < corpus.size(); ++i) of(split[i]).push_back(corpus[i]);
}

void TextDataset::split_bytes(const Document& whole, double validation, double test) {
  const auto size = static_cast<double>(whole.last - whole.first);
  // 1 − 0.05 − 0.05 is slightly less than 0.9; the 1e-6 keeps 10 × 0.9 at 9.
  const auto cut = [&](double fraction) {
    return character_start(whole, whole.first + static_cast<int64_t>(std::floor(size * fraction + 1e-6)));
  };
  const int64_t train_end = cut(1 - validation - test);
  const int64_t validation_end = test > 0 ? cut(1 - test) : whole.last;
  const auto add = [&](Split split, int64_t first, int64_t last, bool wanted) {
    if (!wanted) return;
    if (first >= last)
      throw_user("{}: {} bytes are too few to split into train, validation ({}) and test ({})",
                 files_.path(whole.file), whole.last - whole.first, validation, test);
    of(split).push_back({whole.file, first, last});
  };
  add(Split::train, whole.first, train_end, true);
  add(Split::validation, train_end, validation_end, validation > 0);
  add(Split::test, validation_end, whole.last, test > 0);
}

int64_t TextDataset::character_start(const Document& document, int64_t offset) const {
  for (int64_t start = offset; start >= std::max(document.first, offset - 3); --start) {
    uint8_t byte = 0;
    if (start < document.last) files_.read(document.file, start, {&byte, 1});
    if (!is_utf8_continuation(byte)) return start;
  }
  return offset;  // four continuation bytes in a row are not UTF-8: any cut will do
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
  const Text& text = texts_[static_cast<size_t>(d.file)];
  if (d.first == text.first && d.last == text.last) return path;
  return fmt::format("{} (bytes {} to {})", path, d.first, d.last);
}

uint64_t TextDataset::fingerprint() const {
  Checksum checksum;
  const auto add = [&](int64_t number) { checksum.update(std::as_bytes(std::span(&number, 1))); };
  for (const std::vector<Document>& split : documents_) {
    add(static_cast<int64_t>(split.size()));
    for (const Document& d : split) {
      add(files_.size(d.file)), add(d.first), add(d.last);
      add(static_cast<int64_t>(texts_[static_cast<size_t>(d.file)].checksum));
    }
  }
  return checksum.digest();
}

int64_t TextDataset::document_bytes(Split split, int64_t document) const {
  const Document& d = at(split, document);
  return d.last - d.first;
}

int64_t TextDataset::document_length(Split split, int64_t document) const {
  return document_bytes(split, document) + 2;
}

int64_t TextDataset::words(Split split, int64_t document) const {
  const Document& d = at(split, document);
  std::vector<uint8_t> bytes;
  WordCounter counter;
  for (int64_t first = d.first; first < d.last; first += static_cast<int64_t>(bytes.size())) {
    bytes.resize(static_cast<size_t>(std::min<int64_t>(d.last - first, 1 << 20)));
    files_.read(d.file, first, bytes);
    counter.add({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  return counter.words();
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

}  // namespace perceiver
