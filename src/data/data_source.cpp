// What a data source need not say, and the two that are ready-made.
#include <algorithm>
#include <array>
#include <span>

#include "base/check.h"
#include "data/dataset.h"
#include "io/checksum.h"
#include "perceiver/dataset.h"
#include "perceiver/special_tokens.h"

namespace perceiver {

DataSource::~DataSource() = default;

void DataSource::positions(Split split, int64_t document, int64_t, int64_t, int32_t*) const {
  throw_failure("{}: its format has position_sizes, but DataSource::positions is not overridden",
                name(split, document));
}

int64_t DataSource::units(Split split, int64_t document) const {
  return length(split, document);
}

std::string DataSource::name(Split split, int64_t document) const {
  return fmt::format("{} document {}", split_name(split), document);
}

uint64_t DataSource::fingerprint() const {
  return 0;
}

bool DataSource::generated() const {
  return false;
}

namespace {

using Ids = std::vector<int32_t>;

class MemorySource final : public DataSource {
 public:
  MemorySource(const DataFormat& format, Documents documents)
      : format_(format),
        splits_{std::move(documents.train), std::move(documents.validation), std::move(documents.test)} {
    for (const std::vector<Ids>& split : splits_)
      for (const Ids& ids : split) add(ids);
  }

  DataFormat format() const override { return format_; }
  int64_t documents(Split split) const override { return static_cast<int64_t>(of(split).size()); }
  int64_t length(Split split, int64_t document) const override {
    return static_cast<int64_t>(at(split, document).size());
  }
  void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override {
    std::copy_n(at(split, document).begin() + first, count, out);
  }
  uint64_t fingerprint() const override { return fingerprint_; }

 private:
  const std::vector<Ids>& of(Split split) const { return splits_[static_cast<size_t>(split)]; }
  const Ids& at(Split split, int64_t document) const { return of(split)[static_cast<size_t>(document)]; }
  /// Each document's checksum goes on from the last one's, so that their order and their limits count.
  void add(const Ids& ids) {
    Checksum checksum;
    checksum.update(std::as_bytes(std::span(&fingerprint_, 1)));
    checksum.update(std::as_bytes(std::span(ids)));
    fingerprint_ = checksum.digest();
  }

  DataFormat format_;
  std::array<std::vector<Ids>, split_count> splits_;
  uint64_t fingerprint_ = 0;
};

class GeneratedSource final : public DataSource {
 public:
  static constexpr int64_t kDocuments = int64_t{1} << 40;

  GeneratedSource(const DataFormat& format, int64_t length, WriteDocument write)
      : format_(format), length_(length), write_(std::move(write)) {}

  DataFormat format() const override { return format_; }
  int64_t documents(Split) const override { return kDocuments; }
  int64_t length(Split, int64_t) const override { return length_; }
  void read(Split split, int64_t document, int64_t first, int64_t count, int32_t* out) const override {
    Ids ids(static_cast<size_t>(length_), pad_token);
    write_(split, document, ids.data());
    std::copy_n(ids.begin() + first, count, out);
  }
  bool generated() const override { return true; }

 private:
  DataFormat format_;
  int64_t length_;
  WriteDocument write_;
};

}  // namespace

std::shared_ptr<const DataSource> data_in_memory(const DataFormat& format, Documents documents) {
  return std::make_shared<MemorySource>(format, std::move(documents));
}

std::shared_ptr<const DataSource> generated_data(const DataFormat& format, int64_t length,
                                                 WriteDocument write) {
  if (length < 1) throw_user("generated documents of {} ids; they need at least one", length);
  return std::make_shared<GeneratedSource>(format, length, std::move(write));
}

}  // namespace perceiver
