#include "io/file_view.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "io/file_descriptor.h"

namespace perceiver {

FileView::FileView(const std::filesystem::path& path) {
  const FileDescriptor file = open_for_reading(path);
  const size_t size = regular_file_size(file, path);
  if (size == 0) return;  // mmap refuses empty mappings
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (address == MAP_FAILED)
    throw_failure("cannot map '{}' ({} bytes): {}; raise the limit on address space (ulimit -v)",
                  path.string(), size, std::strerror(errno));
  data_ = static_cast<const std::byte*>(address);
  size_ = size;
}

FileView::FileView(FileView&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

FileView& FileView::operator=(FileView&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

FileView::~FileView() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace perceiver
