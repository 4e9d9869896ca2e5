// Decides which files are for training, validation and testing.
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

/// The files of every split of `config`: those of its own paths, else the folders that the corpora in
/// data.train have for it. Throws `user` also if data.train is empty, a named split has no files left, a file
/// is in two splits, or the fractions in use are outside [0, 1) or leave nothing to train on.
SplitListing list_splits(const DataConfig& config, const ModalityKind& kind, const FileCheck& check = {});

/// Moves the files for which `faults` has a reason to `skipped`. Throws `user` for one that was named itself.
void drop_files(std::vector<ListedFile>& files, const std::vector<std::string>& faults,
                const std::string& what, std::vector<FileRemark>& skipped);

/// Throws `user` if a split that has its own paths has no files left, naming the first that was skipped.
void require_files(const DataConfig& config, const SplitListing& listing);

/// The fraction of train that goes to a split without files of its own; 0 if it has some.
double validation_share(const DataConfig& config, const SplitListing& listing);
double test_share(const DataConfig& config, const SplitListing& listing);

/// Assigns each of `files` (more than one) to a split: ranked by a hash of the seed and their relative paths,
/// the first round(validation · files) go to validation, the next to test, at least one each if the fraction
/// is positive. Throws `user` if nothing is left to train on.
std::vector<Split> choose_splits(const std::vector<ListedFile>& files, uint64_t seed, double validation,
                                 double test);

/// "1 file was skipped; …" or "3 files were skipped; the first, …", for `did` "skipped"; empty if there are
/// none. A file with several remarks counts once.
std::string note_remarks(const std::vector<FileRemark>& remarks, const std::string& did);
/// Adds that line to `notes` if there are any remarks.
void add_note(std::vector<std::string>& notes, const std::vector<FileRemark>& remarks,
              const std::string& did);
/// Files in a list of remarks, where those of one file follow each other.
int64_t count_files(const std::vector<FileRemark>& remarks);

}  // namespace perceiver
