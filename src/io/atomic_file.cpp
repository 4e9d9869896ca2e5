#include "io/atomic_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/check.h"
#include "io/temporary_name.h"

namespace perceiver {
namespace {

constexpr uint64_t kPiece = uint64_t{64} << 20, kSynchronized = uint64_t{1} << 30;

FileDescriptor open_for_writing(const std::filesystem::path& path) {
  FileDescriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
  if (!file.valid()) throw_output_failure("create", path, errno);
  return file;
}

OutputFile open_temporary_output(const std::filesystem::path& path) {
  if (!path.has_filename()) throw_user("cannot write '{}': it is not a file name", path.string());
  OpenTemporary temporary = create_temporary_file(path);
  return OutputFile(std::move(temporary.file), std::move(temporary.path));
}

}  // namespace

OutputFile::OutputFile(std::filesystem::path path) : file_(open_for_writing(path)), path_(std::move(path)) {}

OutputFile::OutputFile(FileDescriptor file, std::filesystem::path path)
    : file_(std::move(file)), path_(std::move(path)) {}

void OutputFile::write(std::span<const std::byte> bytes) {
  PERCEIVER_ASSERT(file_.valid());
  while (!bytes.empty()) {
    const ssize_t count = ::write(file_.get(), bytes.data(), piece(bytes.size()));
    if (count < 0 && errno == EINTR) continue;
    // A write of zero bytes sets no errno; the only known cause is a full disk.
    if (count <= 0)
      throw_output_failure(fmt::format("write at byte {} of", size_), path_, count < 0 ? errno : ENOSPC);
    size_ += static_cast<uint64_t>(count);
    bytes = bytes.subspan(static_cast<size_t>(count));
    report_progress();
  }
}

size_t OutputFile::piece(size_t bytes) const {
  if (!progress_) return bytes;
  return std::min<size_t>(bytes, kPiece - size_ % kPiece);
}

void OutputFile::report_progress() {
  if (!progress_ || size_ % kPiece != 0) return;
  if (size_ % kSynchronized == 0) synchronize();
  progress_();
}

void OutputFile::synchronize() {
  // Devices such as /dev/null cannot be synchronized and return EINVAL.
  if (::fsync(file_.get()) != 0 && errno != EINVAL) throw_output_failure("synchronize", path_, errno);
}

void OutputFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text.data(), text.size())));
}

void OutputFile::finish() {
  PERCEIVER_ASSERT(file_.valid());
  synchronize();
  if (::close(file_.release()) != 0) throw_output_failure("close", path_, errno);
}

AtomicFile::AtomicFile(std::filesystem::path path)
    : path_(std::move(path)), output_(open_temporary_output(path_)) {}

AtomicFile::~AtomicFile() {
  if (!committed_) ::unlink(output_.path().c_str());
}

void AtomicFile::commit() {
  PERCEIVER_ASSERT(!committed_);
  output_.finish();
  if (::rename(output_.path().c_str(), path_.c_str()) != 0) throw_output_failure("replace", path_, errno);
  committed_ = true;
  sync_directory(path_.parent_path());
}

void write_file_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view text) {
  write_file_atomically(path, std::as_bytes(std::span(text.data(), text.size())));
}

std::string read_file(const std::filesystem::path& path, uint64_t max_bytes) {
  constexpr size_t piece = size_t{1} << 16;
  const FileDescriptor file = open_for_reading(path);
  std::string content;
  size_t count = 0;
  do {
    const size_t used = content.size();
    content.resize(used + piece);
    count = read_some(file, std::as_writable_bytes(std::span(content.data() + used, piece)), path);
    content.resize(used + count);
    if (content.size() > max_bytes)
      throw_user("'{}' is longer than the {} bytes allowed for such a file; is it the right one?",
                 path.string(), max_bytes);
  } while (count > 0);
  return content;
}

void sync_directory(const std::filesystem::path& path) {
  const std::filesystem::path folder = path.empty() ? "." : path;
  const FileDescriptor file(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!file.valid()) throw_output_failure("open the folder", folder, errno);
  // Some network file systems cannot synchronize folders and return EINVAL; their renames are durable anyway.
  if (::fsync(file.get()) != 0 && errno != EINVAL)
    throw_output_failure("synchronize the folder", folder, errno);
}

}  // namespace perceiver
