// Which files are for training, validation and testing.
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

/// Whether a file, by its path below the named folder, is one to be read.
using FileFilter = std::function<bool(const ListedFile&)>;

/// The files of every split of `config` that has paths, those that `wanted` (if given) refuses left out.
/// Throws `user` if a path is missing or unreadable, data.train names none, a named split has no file left, a
/// file is in two splits, or the fractions in use are not in [0, 1) or leave nothing to train on.
SplitFiles list_splits(const DataConfig& config, const FileFilter& wanted = {});

/// The fraction of train that a split without paths of its own gets; 0 with paths.
double validation_share(const DataConfig& config);
double test_share(const DataConfig& config);

/// For each of `files`, several, the split that it goes to: ranked by a hash of the seed and their relative
/// paths, the first round(validation · files) are validation, the next test; at least one each where the
/// fraction is positive. Throws `user` if nothing is left to train on.
std::vector<Split> choose_splits(const std::vector<ListedFile>& files, uint64_t seed, double validation,
                                 double test);

}  // namespace perceiver
