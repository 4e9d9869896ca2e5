#include "io/mapped_file.h"

#include <cstring>

#include "base/check.h"

namespace perceiver {

MappedFile::MappedFile(const std::string& path) : path_(path), view_(path) {
  if (view_.bytes().empty()) throw_user("{}: is empty", path);
}

void MappedFile::read(int64_t offset, std::span<uint8_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  if (offset < 0 || offset > size() || count > size() - offset)
    throw_failure("{}: {} bytes at offset {} exceed the file's {} bytes", path_, count, offset, size());
  if (count == 0) return;
  view_.fetch(static_cast<uint64_t>(offset), out.size());
  std::memcpy(out.data(), view_.bytes().data() + offset, out.size());
  view_.release(static_cast<uint64_t>(offset), out.size());
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
    throw_user("{}: had {} bytes when it was opened but has {} now; data must not change during a run",
               entry.path, entry.size, mapping->size());
  if (mapped_.size() >= max_mapped_) {
    entries_[mapped_.front()].mapping.reset();
    mapped_.pop_front();
  }
  mapped_.push_back(file);
  return entry.mapping = std::move(mapping);
}

}  // namespace perceiver
