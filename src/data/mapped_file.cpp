#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "core/check.h"

namespace perceiver {
namespace {

/// A file descriptor that closes itself.
class Descriptor {
 public:
  explicit Descriptor(const std::string& path)
      : value_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
    if (value_ >= 0) return;
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) throw_user("{}: no such file", path);
    if (error == EACCES || error == EPERM) throw_user("{}: no permission to read this file", path);
    throw_failure("{}: cannot be opened: {}", path, std::strerror(error));
  }
  ~Descriptor() { ::close(value_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int value() const { return value_; }

 private:
  int value_;
};

int64_t regular_size(const Descriptor& descriptor, const std::string& path) {
  struct stat status {};
  if (::fstat(descriptor.value(), &status) != 0)
    throw_failure("{}: cannot be examined: {}", path, std::strerror(errno));
  if (S_ISDIR(status.st_mode)) throw_user("{}: is a folder, a file is needed", path);
  if (!S_ISREG(status.st_mode)) throw_user("{}: is not a regular file", path);
  if (status.st_size == 0) throw_user("{}: is empty", path);
  return status.st_size;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const Descriptor descriptor(path);
  size_ = regular_size(descriptor, path);
  void* address = ::mmap(nullptr, static_cast<size_t>(size_), PROT_READ, MAP_PRIVATE, descriptor.value(), 0);
  if (address == MAP_FAILED)
    throw_failure("{}: {} bytes cannot be mapped into memory: {}", path, size_, std::strerror(errno));
  data_ = static_cast<const uint8_t*>(address);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<uint8_t*>(data_), static_cast<size_t>(size_));
}

void MappedFile::read(int64_t offset, std::span<uint8_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  if (offset < 0 || offset > size_ || count > size_ - offset)
    throw_failure("{}: {} bytes at offset {} are more than the file's {}", path_, count, offset, size_);
  if (count == 0) return;
  static const int64_t page = ::sysconf(_SC_PAGESIZE);
  const int64_t first = offset / page * page;
  void* pages = const_cast<uint8_t*>(data_ + first);
  const auto length = static_cast<size_t>(offset + count - first);
  // Both are hints: one read from the disk instead of a fault per page, then out of the resident set.
  if (count > 16 * page) ::madvise(pages, length, MADV_WILLNEED);
  std::memcpy(out.data(), data_ + offset, out.size());
  ::madvise(pages, length, MADV_DONTNEED);
}

int64_t FileSet::add(std::string path, int64_t size) {
  PERCEIVER_ASSERT(size > 0);
  const std::lock_guard lock(mutex_);
  entries_.push_back({std::move(path), size, nullptr});
  return static_cast<int64_t>(entries_.size()) - 1;
}

void FileSet::read(int64_t file, int64_t offset, std::span<uint8_t> out) const {
  map(file)->read(offset, out);
}

int64_t FileSet::mapped() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(mapped_.size());
}

std::shared_ptr<const MappedFile> FileSet::map(int64_t file) const {
  const std::lock_guard lock(mutex_);
  PERCEIVER_ASSERT(file >= 0 && file < static_cast<int64_t>(entries_.size()));
  Entry& entry = entries_[file];
  if (entry.mapping != nullptr) return entry.mapping;
  auto mapping = std::make_shared<const MappedFile>(entry.path);
  if (mapping->size() != entry.size)
    throw_user("{}: had {} bytes when it was opened and has {} now; data must not change during a run",
               entry.path, entry.size, mapping->size());
  if (mapped_.size() >= max_mapped_) {
    entries_[mapped_.front()].mapping.reset();
    mapped_.pop_front();
  }
  mapped_.push_back(file);
  return entry.mapping = std::move(mapping);
}

}  // namespace perceiver
