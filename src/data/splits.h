// Decides which files are for training, validation and testing.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "data/dataset.h"
#include "io/file_list.h"

namespace perceiver {

/// Files by split.
using SplitFiles = std::array<std::vector<ListedFile>, split_count>;

/// Whether to use a file, given its path below the named folder.
using FileFilter = std::function<bool(const ListedFile&)>;

/// The files of every split of `config` that has paths, without those that `wanted` (if given) rejects.
/// Throws `user` if a path is missing or unreadable, data.train is empty, a named split has no files left, a
/// file is in two splits, or the fractions in use are outside [0, 1) or leave nothing to train on.
SplitFiles list_splits(const DataConfig& config, const FileFilter& wanted = {});

/// The fraction of train that goes to a split without its own paths; 0 if it has paths.
double validation_share(const DataConfig& config);
double test_share(const DataConfig& config);

/// Assigns each of `files` (more than one) to a split: ranked by a hash of the seed and their relative paths,
/// the first round(validation · files) go to validation, the next to test, at least one each if the fraction
/// is positive. Throws `user` if nothing is left to train on.
std::vector<Split> choose_splits(const std::vector<ListedFile>& files, uint64_t seed, double validation,
                                 double test);

}  // namespace perceiver
