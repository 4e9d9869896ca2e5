#include "io/file_descriptor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace perceiver {
namespace {

const char* output_advice(int error) {
  switch (error) {
    case ENOSPC:
    case EDQUOT:
      return "free space or choose another folder";
    case EFBIG:
      return "raise the file size limit (ulimit -f) or choose another folder";
    case EACCES:
    case EPERM:
    case EROFS:
      return "make the folder writable or choose another folder";
    case ENOENT:
    case ENOTDIR:
      return "check that the folder exists";
    case EMFILE:
    case ENFILE:
      return "raise the limit on open files (ulimit -n)";
    case EIO:
      return "check the disk or choose another folder";
    default:
      return "choose another folder or name";
  }
}

const char* input_advice(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return "check the path";
    case EACCES:
    case EPERM:
      return "make the file readable";
    default:
      return "check the file";
  }
}

}  // namespace

FileDescriptor::~FileDescriptor() {
  if (valid()) ::close(descriptor_);
}

void throw_output_failure(const std::string& action, const std::filesystem::path& path, int error) {
  throw_failure("cannot {} '{}': {}; {}", action, path.string(), std::strerror(error), output_advice(error));
}

FileDescriptor open_for_reading(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) {
    const int error = errno;
    throw_user("cannot open '{}': {}; {}", path.string(), std::strerror(error), input_advice(error));
  }
  struct stat status {};
  if (::fstat(file.get(), &status) == 0 && S_ISDIR(status.st_mode))
    throw_user("cannot open '{}': it is a folder; name a file", path.string());
  return file;
}

size_t read_some(const FileDescriptor& file, std::span<std::byte> buffer, const std::filesystem::path& path) {
  ssize_t count = -1;
  do {
    count = ::read(file.get(), buffer.data(), buffer.size());
  } while (count < 0 && errno == EINTR);
  if (count < 0) throw_failure("cannot read '{}': {}; check the disk", path.string(), std::strerror(errno));
  return static_cast<size_t>(count);
}

uint64_t regular_file_size(const FileDescriptor& file, const std::filesystem::path& path) {
  struct stat status {};
  if (::fstat(file.get(), &status) != 0)
    throw_failure("cannot read '{}': {}; check the disk", path.string(), std::strerror(errno));
  if (!S_ISREG(status.st_mode)) throw_user("'{}' is not a regular file; name a file", path.string());
  return static_cast<uint64_t>(status.st_size);
}

}  // namespace perceiver
