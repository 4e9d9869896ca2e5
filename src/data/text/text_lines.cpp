#include "data/text/text_lines.h"

#include <algorithm>

#include "base/text.h"

namespace perceiver {

TextLines::TextLines(std::vector<ListedFile> files, int64_t max_bytes) : files_(std::move(files)) {
  double total = 0;
  for (const ListedFile& file : files_) total += static_cast<double>(file.size);
  part_ = std::min(1.0, static_cast<double>(max_bytes) / std::max(1.0, total));
}

bool TextLines::next(std::string& line) {
  std::string_view found;
  while (next_line(found)) {
    if (found.empty() || !is_utf8(found)) continue;
    owed_ += part_;
    if (owed_ < 1) continue;
    owed_ -= 1;
    line = found;
    return true;
  }
  return false;
}

bool TextLines::next_line(std::string_view& line) {
  while (rest_.empty()) {
    if (file_ == files_.size()) return false;
    view_ = FileView(files_[file_++].path);
    rest_ = {reinterpret_cast<const char*>(view_.bytes().data()), view_.bytes().size()};
  }
  const size_t end = std::min(rest_.find('\n'), rest_.size());
  size_t length = std::min(end, max_line_bytes);
  if (length < end) {
    const size_t whole = utf8_prefix(rest_.substr(0, length));
    if (whole > 0) length = whole;
  }
  line = rest_.substr(0, length);
  rest_.remove_prefix(length == end ? std::min(end + 1, rest_.size()) : length);
  return true;
}

}  // namespace perceiver
