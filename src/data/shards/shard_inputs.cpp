#include "data/shards/shard_inputs.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "base/check.h"
#include "base/text.h"
#include "data/file_notes.h"
#include "data/split_folders.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

bool matches(const std::string& pattern, const std::string& path) {
  if (pattern.empty()) return false;
  const std::string name = fs::path(path).filename().string();
  return ::fnmatch(pattern.c_str(), path.c_str(), 0) == 0 || ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

/// Moves the files for training that a pattern matches to its split.
void take_matches(const std::string& input, Split split, const std::string& pattern, SplitListing& listing) {
  if (pattern.empty()) return;
  std::vector<ListedFile>& train = listing.of(Split::train);
  const auto taken = std::stable_partition(
      train.begin(), train.end(), [&](const ListedFile& file) { return !matches(pattern, file.relative); });
  if (taken == train.end())
    throw_user("{}: no file matches the {} pattern '{}'", printable(input), split_name(split), pattern);
  listing.of(split).assign(taken, train.end());
  train.erase(taken, train.end());
  listing.own[static_cast<size_t>(split)] = true;
}

/// Holds out fractions of the files for training, for the splits that have no files of their own.
void take_fractions(const std::string& input, const SplitOptions& options, SplitListing& listing) {
  const double validation = listing.has(Split::validation) ? 0 : options.validation_fraction;
  const double test = listing.has(Split::test) ? 0 : options.test_fraction;
  const std::vector<ListedFile> files = std::exchange(listing.of(Split::train), {});
  if (files.size() == 1 && validation + test > 0)
    throw_user(
        "{}: the one file for training ({}) cannot be split by fractions; add files, or set "
        "--validation-fraction and --test-fraction to 0",
        printable(input), printable(files[0].relative));
  const std::vector<Split> chosen = choose_splits(files, options.seed, validation, test);
  for (size_t i = 0; i < files.size(); ++i) listing.of(chosen[i]).push_back(files[i]);
}

}  // namespace

SplitListing find_inputs(const std::string& input, const ModalityKind& kind, const SplitOptions& options,
                         const FileCheck& check) {
  const SplitFolders folders = find_split_folders(input);
  if (folders.decide() && !(options.validation.empty() && options.test.empty()))
    throw_user("{}: has a folder {}/, so its folders decide the splits; leave the patterns out",
               printable(input), printable(folders.name(Split::train)));
  SplitListing listing = list_corpus(input, "--input", kind, check);
  take_matches(input, Split::test, options.test, listing);
  take_matches(input, Split::validation, options.validation, listing);
  if (listing.of(Split::train).empty()) {
    const std::string skipped = note_remarks(listing.skipped, "skipped");
    throw_user(
        "{}: no files to train on: none of modality {} ({}){}{}", printable(input), kind.name,
        kind.endings.empty() ? "any file that is text" : fmt::format("{}", fmt::join(kind.endings, ", ")),
        skipped.empty() ? "" : "; ", skipped);
  }
  take_fractions(input, options, listing);
  return listing;
}

}  // namespace perceiver
