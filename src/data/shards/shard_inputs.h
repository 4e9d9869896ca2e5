// Which files of an input folder go into shards, and into which split.
#pragma once

#include <string>
#include <vector>

#include "data/modality.h"
#include "data/splits.h"

namespace perceiver {

/// How files are assigned to splits.
struct SplitOptions {
  std::string validation, test;       ///< fnmatch(3) patterns on paths below the input folder; "" = none
  double validation_fraction = 0.05;  ///< of the files for training; not with `validation`
  double test_fraction = 0;
  uint64_t seed = 0;
};

/// The files of `input` (a file or a folder) that `kind` takes and `check` (if given) passes, by split. The
/// folders of its splits decide if it has any (list_corpus); otherwise patterns do. Of what is then for
/// training, fractions go to the splits without files of their own. Throws `user` if nothing is left to train
/// on, if a pattern matches nothing, or if patterns are given for an input that has such folders.
SplitListing find_inputs(const std::string& input, const ModalityKind& kind, const SplitOptions& options,
                         const FileCheck& check = {});

}  // namespace perceiver
