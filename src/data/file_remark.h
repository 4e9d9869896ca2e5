// A remark about a source file: why it was skipped, or what was repaired while it was read.
#pragma once

#include <string>

namespace perceiver {

struct FileRemark {
  std::string path;    ///< as listed: below the folder that was named, or the file's own name
  std::string remark;  ///< one line without the path, e.g. "is not UTF-8 text (byte 4711)"
  bool operator==(const FileRemark&) const = default;
};

}  // namespace perceiver
