#include "data/source_file.h"

#include "base/check.h"

namespace perceiver {

void SourceFile::repaired(const std::string& what) const {
  if (strict) throw_user("{}: {}", path, what);
  if (repairs) repairs->push_back(what);
}

}  // namespace perceiver
