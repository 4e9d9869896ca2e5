#include "data/shards/shard_inputs.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>

#include "base/check.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

bool matches(const std::string& pattern, const std::string& path) {
  if (pattern.empty()) return false;
  const std::string name = fs::path(path).filename().string();
  return ::fnmatch(pattern.c_str(), path.c_str(), 0) == 0 || ::fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

std::string expected_endings(const ModalityKind& kind) {
  return fmt::format("not a file of modality {} ({})", kind.name, fmt::join(kind.endings, ", "));
}

/// Moves the files that `kind` does not take from `files` to `skipped`.
void keep_taken(std::vector<ListedFile>& files, const ModalityKind& kind, std::vector<FileRemark>& skipped) {
  for (const ListedFile& file : files) {
    const bool companion = std::any_of(kind.companions.begin(), kind.companions.end(),
                                       [&](auto ending) { return file.relative.ends_with(ending); });
    if (!companion && !kind.takes(file.relative)) skipped.push_back({file.relative, expected_endings(kind)});
  }
  std::erase_if(files, [&](const ListedFile& file) { return !kind.takes(file.relative); });
}

SplitFiles inputs_by_folder(const std::string& input, const ModalityKind& kind,
                            std::vector<FileRemark>& skipped) {
  SplitFiles files;
  for (int i = 0; i < split_count; ++i) {
    const fs::path folder = fs::path(input) / split_name(static_cast<Split>(i));
    std::error_code ignored;
    if (fs::is_directory(folder, ignored)) files[i] = list_files({folder.string()}, "--input", true);
    keep_taken(files[i], kind, skipped);
  }
  for (const ListedFile& file : list_files({input}, "--input", true)) {
    const fs::path top = *fs::path(file.relative).begin();
    const bool inside = top == "train" || top == "validation" || top == "test";
    if (!inside) skipped.push_back({file.relative, "outside the folders train, validation and test"});
  }
  return files;
}

SplitFiles inputs_by_pattern(const std::string& input, const ModalityKind& kind, const SplitOptions& options,
                             std::vector<FileRemark>& skipped) {
  std::vector<ListedFile> all = list_files({input}, "--input", true), rest;
  keep_taken(all, kind, skipped);
  SplitFiles files;
  for (const ListedFile& file : all) {
    if (matches(options.test, file.relative)) {
      files[static_cast<int>(Split::test)].push_back(file);
    } else if (matches(options.validation, file.relative)) {
      files[static_cast<int>(Split::validation)].push_back(file);
    } else {
      rest.push_back(file);
    }
  }
  for (const Split split : {Split::validation, Split::test}) {
    const std::string& pattern = split == Split::test ? options.test : options.validation;
    if (!pattern.empty() && files[static_cast<int>(split)].empty())
      throw_user("{}: no file matches the {} pattern '{}'", input, split_name(split), pattern);
  }
  if (rest.empty()) return files;
  const double validation = options.validation.empty() ? options.validation_fraction : 0;
  const double test = options.test.empty() ? options.test_fraction : 0;
  const double held_out = static_cast<double>(rest.size()) * (validation + test);
  if (rest.size() == 1 && held_out > 0)
    throw_user(
        "{}: one file cannot be split by fractions; give it folders train/ and validation/, or set the "
        "fractions to 0",
        input);
  const std::vector<Split> chosen = choose_splits(rest, options.seed, validation, test);
  for (size_t i = 0; i < rest.size(); ++i) files[static_cast<int>(chosen[i])].push_back(rest[i]);
  return files;
}

}  // namespace

SplitFiles find_inputs(const std::string& input, const ModalityKind& kind, const SplitOptions& options,
                       std::vector<FileRemark>& skipped) {
  std::error_code ignored;
  const bool folders = fs::is_directory(fs::path(input) / "train", ignored);
  if (folders && !(options.validation.empty() && options.test.empty()))
    throw_user("{}: has a folder train/, so its folders decide the splits; leave the patterns out", input);
  SplitFiles files =
      folders ? inputs_by_folder(input, kind, skipped) : inputs_by_pattern(input, kind, options, skipped);
  if (files[static_cast<int>(Split::train)].empty())
    throw_user("{}: no files to train on: {} files are not of modality {} ({})", input, skipped.size(),
               kind.name, kind.endings.empty() ? "any" : fmt::format("{}", fmt::join(kind.endings, ", ")));
  return files;
}

}  // namespace perceiver
