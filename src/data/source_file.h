// A file of data as readers get it.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace perceiver {

/// A file to be read; its bytes are not trusted.
struct SourceFile {
  std::string path;                             ///< for messages, and to find companion files
  std::span<const std::byte> bytes;             ///< the whole content
  bool strict = false;                          ///< refuse what a reader could repair
  std::vector<std::string>* repairs = nullptr;  ///< receives what was repaired; null: nobody asks

  /// A reader calls this for each repair, e.g. "track 2 has no end-of-track event". Throws `user`
  /// "<path>: <what>" if the file is read strictly.
  void repaired(const std::string& what) const;
};

}  // namespace perceiver
