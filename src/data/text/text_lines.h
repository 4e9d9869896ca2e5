// Lines of a folder of text, evenly taken, to train a tokenizer on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "io/file_list.h"
#include "io/file_view.h"

namespace perceiver {

/// Hands out lines without their ends; long ones in pieces of at most `max_line_bytes`, cut between
/// characters. Of a text larger than `max_bytes` every so-manieth line is left out, evenly. Lines that are
/// empty or not UTF-8 are left out.
class TextLines {
 public:
  static constexpr size_t max_line_bytes = 4096;

  TextLines(std::vector<ListedFile> files, int64_t max_bytes);
  /// False when there are none left.
  bool next(std::string& line);

 private:
  bool next_line(std::string_view& line);

  std::vector<ListedFile> files_;
  double part_;      ///< of the lines that is taken
  double owed_ = 0;  ///< lines
  size_t file_ = 0;  ///< of the next to be opened
  FileView view_;
  std::string_view rest_;
};

}  // namespace perceiver
