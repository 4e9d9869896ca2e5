// Which files of an input folder go into shards, and into which split.
#pragma once

#include <string>
#include <vector>

#include "data/modality.h"
#include "data/shards/shard_header.h"
#include "data/splits.h"

namespace perceiver {

/// How files are assigned to splits.
struct SplitOptions {
  std::string validation, test;       ///< fnmatch(3) patterns on paths below the input folder; "" = none
  double validation_fraction = 0.05;  ///< of the files that no pattern matches; not with `validation`
  double test_fraction = 0;
  uint64_t seed = 0;
};

/// The files of `input` (a file or a folder) that `kind` takes, by split. If `input` has a folder train/, its
/// folders train/, validation/ and test/ decide; otherwise patterns and fractions do. All other files are
/// added to `skipped`. Throws `user` if nothing is left to train on, or if patterns are given for an input
/// that has such folders.
SplitFiles find_inputs(const std::string& input, const ModalityKind& kind, const SplitOptions& options,
                       std::vector<FileRemark>& skipped);

}  // namespace perceiver
