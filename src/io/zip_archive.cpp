#include "io/zip_archive.h"

#include <minizip/unzip.h>
#include <zlib.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "base/check.h"
#include "base/text.h"

namespace perceiver {
namespace {

/// Deflate cannot do better than 258 bytes from 2 bits.
constexpr uint64_t most_expansion = 1032;

/// What minizip reads instead of a file.
struct Stream {
  std::span<const std::byte> bytes;
  uint64_t position = 0;
};

void* open_stream(void* stream, const void*, int) {
  return stream;
}
int close_stream(void*, void*) {
  return 0;
}
int stream_error(void*, void*) {
  return 0;
}
ZPOS64_T stream_position(void*, void* stream) {
  return static_cast<Stream*>(stream)->position;
}

uLong read_stream(void*, void* opaque, void* out, uLong size) {
  Stream& stream = *static_cast<Stream*>(opaque);
  const uint64_t count = std::min<uint64_t>(size, stream.bytes.size() - stream.position);
  if (count > 0) std::memcpy(out, stream.bytes.data() + stream.position, count);
  stream.position += count;
  return count;
}

long seek_stream(void*, void* opaque, ZPOS64_T offset, int origin) {
  Stream& stream = *static_cast<Stream*>(opaque);
  uint64_t base = 0;
  if (origin == ZLIB_FILEFUNC_SEEK_CUR) base = stream.position;
  if (origin == ZLIB_FILEFUNC_SEEK_END) base = stream.bytes.size();
  if (offset > stream.bytes.size() - base) return -1;
  stream.position = base + offset;
  return 0;
}

struct Close {
  void operator()(void* archive) const { unzClose(archive); }
};
using Archive = std::unique_ptr<void, Close>;

Archive open_archive(Stream& stream) {
  zlib_filefunc64_def functions{};
  functions.zopen64_file = open_stream;
  functions.zread_file = read_stream;
  functions.ztell64_file = stream_position;
  functions.zseek64_file = seek_stream;
  functions.zclose_file = close_stream;
  functions.zerror_file = stream_error;
  functions.opaque = &stream;
  return Archive(unzOpen2_64(nullptr, &functions));
}

void check_entry(const ZipEntry& entry, uint64_t file_size, const std::string& source) {
  const std::string name = quote(entry.name);
  if (entry.offset > file_size || entry.compressed > file_size - entry.offset)
    throw_user("{}: byte {}: entry {} ends past the end of the file; the file was truncated", source,
               entry.offset, name);
  const bool possible =
      entry.stored ? entry.size == entry.compressed : entry.size / most_expansion <= entry.compressed;
  if (!possible)
    throw_user("{}: byte {}: entry {} cannot have {} bytes; the file is damaged", source, entry.offset, name,
               entry.size);
}

/// The entry at which `archive` stands.
ZipEntry read_entry(void* archive, const std::string& source) {
  unz_file_info64 info{};
  int status = unzGetCurrentFileInfo64(archive, &info, nullptr, 0, nullptr, 0, nullptr, 0);
  std::string name(info.size_filename, '\0');
  if (status == UNZ_OK)
    status = unzGetCurrentFileInfo64(archive, &info, name.data(), name.size(), nullptr, 0, nullptr, 0);
  if (status != UNZ_OK) throw_user("{}: the directory of the zip archive is damaged", source);
  if ((info.flag & 1) != 0)
    throw_user("{}: entry {} of the zip archive is encrypted, which is not read", source, quote(name));
  if (info.compression_method != 0 && info.compression_method != Z_DEFLATED)
    throw_user("{}: entry {} of the zip archive is compressed by method {}; only deflate is read", source,
               quote(name), info.compression_method);
  int method = 0;
  int level = 0;
  if (unzOpenCurrentFile2(archive, &method, &level, 1) != UNZ_OK)
    throw_user("{}: entry {} of the zip archive is damaged: its header is not what the directory says",
               source, quote(name));
  ZipEntry entry;
  entry.offset = unzGetCurrentFileZStreamPos64(archive);
  unzCloseCurrentFile(archive);
  entry.name = std::move(name);
  entry.compressed = info.compressed_size;
  entry.size = info.uncompressed_size;
  entry.checksum = static_cast<uint32_t>(info.crc);
  entry.stored = info.compression_method == 0;
  return entry;
}

}  // namespace

ZipArchive ZipArchive::parse(std::span<const std::byte> file, const std::string& source) {
  Stream stream{file};
  const Archive archive = open_archive(stream);
  if (archive == nullptr)
    throw_user(
        "{}: no directory of a zip archive is found at its end; the file was truncated or is no zip archive",
        source);
  ZipArchive result;
  result.file_ = file;
  result.source_ = source;
  int status = unzGoToFirstFile(archive.get());
  for (; status == UNZ_OK; status = unzGoToNextFile(archive.get())) {
    ZipEntry entry = read_entry(archive.get(), source);
    check_entry(entry, file.size(), source);
    result.index_[entry.name] = result.entries_.size();
    result.entries_.push_back(std::move(entry));
  }
  if (status != UNZ_END_OF_LIST_OF_FILE)
    throw_user("{}: the directory of the zip archive is damaged", source);
  return result;
}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

std::span<const std::byte> ZipArchive::stored_bytes(const ZipEntry& entry) const {
  PERCEIVER_ASSERT(entry.stored);
  return file_.subspan(entry.offset, entry.size);
}

std::vector<std::byte> ZipArchive::read(const ZipEntry& entry) const {
  if (!entry.stored) return inflate(entry);
  const std::span<const std::byte> bytes = stored_bytes(entry);
  return {bytes.begin(), bytes.end()};
}

std::vector<std::byte> ZipArchive::inflate(const ZipEntry& entry) const {
  constexpr uint64_t most = std::numeric_limits<uInt>::max();
  std::vector<std::byte> result(entry.size + 1);  // zlib refuses to write to nothing
  z_stream stream{};
  if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) throw_failure("{}: zlib cannot start", source_);
  uint64_t taken = 0;
  uint64_t made = 0;
  int status = Z_OK;
  // zlib counts what it is given in 32 bits.
  while (status == Z_OK) {
    const uInt in = static_cast<uInt>(std::min(entry.compressed - taken, most));
    const uInt out = static_cast<uInt>(std::min(result.size() - made, most));
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<std::byte*>(file_.data() + entry.offset + taken));
    stream.next_out = reinterpret_cast<Bytef*>(result.data() + made);
    stream.avail_in = in;
    stream.avail_out = out;
    status = ::inflate(&stream, Z_NO_FLUSH);
    taken += in - stream.avail_in;
    made += out - stream.avail_out;
  }
  inflateEnd(&stream);
  result.resize(entry.size);
  const uLong checksum = crc32_z(0, reinterpret_cast<const Bytef*>(result.data()), result.size());
  if (status != Z_STREAM_END || made != entry.size || checksum != entry.checksum)
    throw_user("{}: byte {}: entry {} does not inflate to what the directory says; the file is damaged",
               source_, entry.offset, quote(entry.name));
  return result;
}

}  // namespace perceiver
