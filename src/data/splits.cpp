#include "data/splits.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "data/file_notes.h"
#include "data/split_folders.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;
using Identity = std::pair<uint64_t, uint64_t>;

Identity identity(const ListedFile& file) {
  return {file.device, file.inode};
}

std::string key_name(Split split) {
  return fmt::format("data.{}", split_name(split));
}

const std::vector<std::string>& paths_of(const DataConfig& config, Split split) {
  return split == Split::train ? config.train : split == Split::test ? config.test : config.validation;
}

void check_fractions(double validation, double test) {
  const auto valid = [](double fraction) { return fraction >= 0 && fraction < 1; };
  if (!valid(validation)) throw_user("data.validation_fraction must be in [0, 1), but it is {}", validation);
  if (!valid(test)) throw_user("data.test_fraction must be in [0, 1), but it is {}", test);
  if (validation + test >= 1)
    throw_user("data.validation_fraction and data.test_fraction leave nothing to train on: {} + {}",
               validation, test);
}

/// Two splits must not share a file: evaluation would use training data.
void check_disjoint(const SplitFiles& files) {
  std::map<Identity, Split> owner;
  for (int i = 0; i < split_count; ++i) {
    const auto split = static_cast<Split>(i);
    for (const ListedFile& file : files[i]) {
      const auto [entry, fresh] = owner.try_emplace(identity(file), split);
      if (!fresh)
        throw_user("{}: is in both {} and {}; a file can only be in one split", printable(file.path),
                   key_name(entry->second), key_name(split));
    }
  }
}

/// Number of documents in a split with `fraction` of `all`: none for 0, else at least one.
int64_t share(double fraction, int64_t all) {
  if (fraction == 0) return 0;
  return std::max<int64_t>(1, std::llround(fraction * static_cast<double>(all)));
}

/// Pools the files of another corpus with those of `all`.
void add_corpus(SplitListing corpus, SplitListing& all) {
  for (size_t i = 0; i < split_count; ++i) {
    all.files[i].insert(all.files[i].end(), corpus.files[i].begin(), corpus.files[i].end());
    all.own[i] = all.own[i] || corpus.own[i];
  }
  all.skipped.insert(all.skipped.end(), corpus.skipped.begin(), corpus.skipped.end());
  all.notes.insert(all.notes.end(), corpus.notes.begin(), corpus.notes.end());
}

/// Each file once, the first time it is listed.
void keep_first(std::vector<ListedFile>& files, const std::string& what, std::vector<FileRemark>& skipped) {
  std::map<Identity, std::string> seen;
  std::vector<std::string> faults;
  for (const ListedFile& file : files) {
    const auto [first, fresh] = seen.try_emplace(identity(file), file.path);
    faults.push_back(fresh
                         ? ""
                         : fmt::format("is the same file as {}, which is listed already",
                                       printable(file.named ? first->second
                                                            : fs::path(first->second).filename().string())));
  }
  drop_files(files, faults, what, skipped);
}

/// The files of the paths that the user gave for validation or test.
std::vector<ListedFile> list_named(const std::vector<std::string>& paths, const std::string& key,
                                   const ModalityKind& kind, const FileCheck& check,
                                   std::vector<FileRemark>& skipped) {
  for (const std::string& path : paths) {
    const SplitFolders folders = find_split_folders(path);
    if (folders.decide())
      throw_user("{}: {} has splits of its own ({}); name one of them", key, printable(path), folders.list());
  }
  std::vector<ListedFile> files = list_files(paths, key, add_to(skipped));
  keep_usable(files, kind, check, key, skipped);
  return files;
}

/// Replaces the files that the corpora have for a split by those that the user named.
void use_named(std::vector<ListedFile> named, const std::string& key, std::vector<ListedFile>& files,
               std::vector<FileRemark>& skipped) {
  std::set<Identity> used;
  for (const ListedFile& file : named) used.insert(identity(file));
  for (const ListedFile& file : files)
    if (!used.contains(identity(file)))
      skipped.push_back({file.relative, "is not among the files of " + key});
  files = std::move(named);
}

}  // namespace

SplitListing list_splits(const DataConfig& config, const ModalityKind& kind, const FileCheck& check) {
  if (config.train.empty()) throw_user("data.train names no file or folder");
  SplitListing all;
  SplitFiles named;
  std::vector<ListedFile> used;
  for (const Split split : {Split::validation, Split::test}) {
    std::vector<ListedFile>& files = named[static_cast<size_t>(split)];
    files = list_named(paths_of(config, split), key_name(split), kind, check, all.skipped);
    used.insert(used.end(), files.begin(), files.end());
  }
  for (const std::string& path : config.train)
    add_corpus(list_corpus(path, key_name(Split::train), kind, check, used), all);
  for (const Split split : {Split::validation, Split::test}) {
    if (paths_of(config, split).empty()) continue;
    use_named(std::move(named[static_cast<size_t>(split)]), key_name(split), all.of(split), all.skipped);
    all.own[static_cast<size_t>(split)] = true;
  }
  for (int i = 0; i < split_count; ++i)
    keep_first(all.files[i], key_name(static_cast<Split>(i)), all.skipped);
  require_files(config, all);
  check_disjoint(all.files);
  check_fractions(validation_share(config, all), test_share(config, all));
  return all;
}

void require_files(const DataConfig& config, const SplitListing& listing) {
  for (const Split split : {Split::train, Split::validation, Split::test}) {
    const std::vector<std::string>& paths = paths_of(config, split);
    if (paths.empty() || !listing.files[static_cast<size_t>(split)].empty()) continue;
    const std::string skipped = note_remarks(listing.skipped, "skipped");
    throw_user("{}: no file with any {} in {}{}{}", key_name(split),
               config.type == "text" ? "text" : "data of that kind",
               printable(fmt::format("{}", fmt::join(paths, ", "))), skipped.empty() ? "" : "; ", skipped);
  }
}

double validation_share(const DataConfig& config, const SplitListing& listing) {
  return listing.has(Split::validation) ? 0 : config.validation_fraction;
}

double test_share(const DataConfig& config, const SplitListing& listing) {
  return listing.has(Split::test) ? 0 : config.test_fraction;
}

std::vector<Split> choose_splits(const std::vector<ListedFile>& files, uint64_t seed, double validation,
                                 double test) {
  const auto count = static_cast<int64_t>(files.size());
  const int64_t for_validation = share(validation, count);
  const int64_t held_out = for_validation + share(test, count);
  if (held_out >= count)
    throw_user(
        "data.train: {} documents are too few for a validation fraction of {} and a test fraction of {}",
        count, validation, test);
  std::vector<uint64_t> hash(files.size());
  std::transform(files.begin(), files.end(), hash.begin(), [&](const ListedFile& file) {
    return XXH64(file.relative.data(), file.relative.size(), seed);
  });
  std::vector<int64_t> ranked(count);
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(), [&](int64_t a, int64_t b) { return hash[a] < hash[b]; });
  std::vector<Split> split(count, Split::train);
  for (int64_t i = 0; i < held_out; ++i)
    split[ranked[i]] = i < for_validation ? Split::validation : Split::test;
  return split;
}

}  // namespace perceiver
