// Folders that hold their own splits: train/, validation/ and test/ in a corpus.
#pragma once

#include <array>
#include <string>

#include "data/dataset.h"

namespace perceiver {

/// The names of a corpus's folders by split, as they are spelled on the disk; "" = none.
struct SplitFolders {
  std::array<std::string, split_count> names;

  const std::string& name(Split split) const { return names[static_cast<size_t>(split)]; }
  /// Only a folder for training makes the others splits: many a source tree has a folder test/.
  bool decide() const { return !name(Split::train).empty(); }
  /// "train/, val/ and test/": those that exist.
  std::string list() const;
};

/// Looks for folders, or links to folders, named train or training; validation, val, valid or dev; test or
/// testing (in upper or lower case). None if `corpus` is not a folder that can be read. Throws `user` if it
/// has two for the same split.
SplitFolders find_split_folders(const std::string& corpus);

}  // namespace perceiver
