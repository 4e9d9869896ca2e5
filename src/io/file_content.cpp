#include "io/file_content.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"
#include "io/file_descriptor.h"

namespace perceiver {

std::string read_fault(int error) {
  if (error == EMFILE || error == ENFILE)
    throw_failure("cannot open another file: {}; raise the limit on open files (ulimit -n)",
                  std::strerror(error));
  if (error == ENOMEM) throw_failure("cannot read files: {}", std::strerror(error));
  return fmt::format("cannot be read: {}", std::strerror(error));
}

FileContent::FileContent(const std::filesystem::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) throw_user("{}: {}", path.string(), read_fault(errno));
  const uint64_t size = regular_file_size(file, path);
  if (size > most_memory) {
    view_ = FileView(path);
    return;
  }
  memory_.resize(size);
  for (size_t have = 0; have < size;) {
    const ssize_t count = ::read(file.get(), memory_.data() + have, size - have);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw_user("{}: {}", path.string(), read_fault(errno));
    if (count == 0) throw_user("{}: was cut short while it was read", path.string());
    have += static_cast<size_t>(count);
  }
}

}  // namespace perceiver
