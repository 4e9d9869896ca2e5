#include "data/file_notes.h"

#include <fmt/format.h>

#include "base/text.h"

namespace perceiver {

int64_t count_files(const std::vector<FileRemark>& remarks) {
  int64_t files = 0;
  for (size_t i = 0; i < remarks.size(); ++i)
    files += i == 0 || remarks[i].path != remarks[i - 1].path ? 1 : 0;
  return files;
}

std::string note_remarks(const std::vector<FileRemark>& remarks, const std::string& did) {
  if (remarks.empty()) return {};
  const FileRemark& remark = remarks.front();
  const std::string first = fmt::format("{}: {}", printable(remark.path), printable(remark.remark));
  const int64_t files = count_files(remarks);
  if (files == 1) return fmt::format("1 file was {}: {}", did, first);
  return fmt::format("{} files were {}; the first, {}", files, did, first);
}

void add_note(std::vector<std::string>& notes, const std::vector<FileRemark>& remarks,
              const std::string& did) {
  if (!remarks.empty()) notes.push_back(note_remarks(remarks, did));
}

}  // namespace perceiver
