// Evenly sampled lines of text files, to train a tokenizer on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_list.h"
#include "io/file_view.h"

namespace perceiver {

/// Yields lines without line ends; long ones in pieces of at most `max_line_bytes`, cut between characters.
/// If the text is larger than `max_bytes`, lines are skipped evenly. Empty lines and lines that are not UTF-8
/// are skipped.
class TextLines {
 public:
  static constexpr size_t max_line_bytes = 4096;

  TextLines(std::vector<ListedFile> files, int64_t max_bytes);
  /// False if there are none left.
  bool next(std::string& line);

 private:
  bool next_line(std::string_view& line);

  std::vector<ListedFile> files_;
  double part_;      ///< fraction of the lines to use
  double owed_ = 0;  ///< lines
  size_t file_ = 0;  ///< index of the next file to open
  FileView view_;
  std::string_view rest_;
};

}  // namespace perceiver
