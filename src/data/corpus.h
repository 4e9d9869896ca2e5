// The files of one corpus: a file, a folder, or a folder with splits of its own.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "data/modality.h"
#include "io/file_list.h"

namespace perceiver {

/// Files by split.
using SplitFiles = std::array<std::vector<ListedFile>, split_count>;

/// What the paths of a corpus hold.
struct SplitListing {
  SplitFiles files;
  std::vector<FileRemark> skipped;      ///< files that are not used
  std::vector<std::string> notes;       ///< one line each, for the user
  std::array<bool, split_count> own{};  ///< splits that have a path or a folder of their own

  std::vector<ListedFile>& of(Split split) { return files[static_cast<size_t>(split)]; }
  bool has(Split split) const { return own[static_cast<size_t>(split)]; }
};

/// Looks into files before they are split: for each, why it cannot be used, or an empty string.
using FileCheck = std::function<std::vector<std::string>(const std::vector<ListedFile>&)>;

/// The files of one corpus that `kind` takes and `check` (if given) passes. A folder with a folder for
/// training (find_split_folders) has its splits in it, and what lies outside of them is skipped; otherwise
/// all files are for training. `what` names the path in messages; `used` are files that other paths name,
/// which are not reported as outside. Throws `user` as list_files does, and for a file named itself that
/// cannot be used.
SplitListing list_corpus(const std::string& path, const std::string& what, const ModalityKind& kind,
                         const FileCheck& check = {}, const std::vector<ListedFile>& used = {});

/// Moves the files for which `faults` has a reason to `skipped`. Throws `user` for one that was named itself.
void drop_files(std::vector<ListedFile>& files, const std::vector<std::string>& faults,
                const std::string& what, std::vector<FileRemark>& skipped);

/// Drops the files that `kind` does not take (those that accompany others without a word) or `check` does not
/// pass.
void keep_usable(std::vector<ListedFile>& files, const ModalityKind& kind, const FileCheck& check,
                 const std::string& what, std::vector<FileRemark>& skipped);
/// For list_files: adds what is skipped to `skipped`, as paths below `folder` ("name/", or nothing).
SkipPath add_to(std::vector<FileRemark>& skipped, const std::string& folder = "");

}  // namespace perceiver
