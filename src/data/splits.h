// Decides which files are for training, validation and testing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/corpus.h"

namespace perceiver {

/// The files of every split of `config`: those of its own paths, else the folders that the corpora in
/// data.train have for it. Throws `user` also if data.train is empty, a named split has no files left, a file
/// is in two splits, or the fractions in use are outside [0, 1) or leave nothing to train on.
SplitListing list_splits(const DataConfig& config, const ModalityKind& kind, const FileCheck& check = {});

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

}  // namespace perceiver
