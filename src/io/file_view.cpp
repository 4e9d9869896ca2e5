#include "io/file_view.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "io/file_descriptor.h"

namespace perceiver {
namespace {

/// What a page fault may map at once, on Linux by default, and a multiple of the page size.
constexpr uint64_t kFaultBytes = 65536;

/// The advice, for whole windows of faults, is a hint: what it cannot do is done on access.
void advise(std::span<const std::byte> file, uint64_t offset, uint64_t bytes, int advice) {
  const uint64_t first = offset / kFaultBytes * kFaultBytes;
  const uint64_t last = (offset + bytes + kFaultBytes - 1) / kFaultBytes * kFaultBytes;
  ::madvise(const_cast<std::byte*>(file.data()) + first, std::min<uint64_t>(last, file.size()) - first,
            advice);
}

}  // namespace

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

void FileView::fetch(uint64_t offset, uint64_t bytes) const {
  if (bytes > kFaultBytes) advise(this->bytes(), offset, bytes, MADV_WILLNEED);
}

void FileView::release(uint64_t offset, uint64_t bytes) const {
  if (bytes > 0) advise(this->bytes(), offset, bytes, MADV_DONTNEED);
}

FileView::~FileView() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace perceiver
