// Zip archives in memory, as torch and other programs write them.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace perceiver::testing {

struct ZipPart {
  std::string name;
  std::string content;
  bool deflate = false;
};

inline std::string little_endian(uint64_t number, int bytes) {
  std::string result;
  for (; bytes > 0; --bytes, number >>= 8) result += static_cast<char>(number);
  return result;
}

/// The content without zlib's own header.
inline std::string deflated(const std::string& content) {
  std::string result(compressBound(content.size()), '\0');
  z_stream stream{};
  if (deflateInit2(&stream, 9, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK)
    throw std::runtime_error("zlib");
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(content.data()));
  stream.avail_in = static_cast<uInt>(content.size());
  stream.next_out = reinterpret_cast<Bytef*>(result.data());
  stream.avail_out = static_cast<uInt>(result.size());
  deflate(&stream, Z_FINISH);
  result.resize(stream.total_out);
  deflateEnd(&stream);
  return result;
}

inline std::string zip_bytes(const std::vector<ZipPart>& parts) {
  std::string file;
  std::string directory;
  for (const ZipPart& part : parts) {
    const std::string data = part.deflate ? deflated(part.content) : part.content;
    const uLong checksum =
        crc32_z(0, reinterpret_cast<const Bytef*>(part.content.data()), part.content.size());
    // Flags, method, time and date; then what the header of the entry and the directory both say.
    const std::string common = little_endian(0, 2) + little_endian(part.deflate ? Z_DEFLATED : 0, 2) +
                               little_endian(0, 4) + little_endian(checksum, 4) +
                               little_endian(data.size(), 4) + little_endian(part.content.size(), 4) +
                               little_endian(part.name.size(), 2) + little_endian(0, 2);
    directory += "PK\1\2" + little_endian(20, 2) + little_endian(20, 2) + common + little_endian(0, 10) +
                 little_endian(file.size(), 4) + part.name;
    file += "PK\3\4" + little_endian(20, 2) + common + part.name + data;
  }
  return file + directory + "PK\5\6" + little_endian(0, 4) + little_endian(parts.size(), 2) +
         little_endian(parts.size(), 2) + little_endian(directory.size(), 4) + little_endian(file.size(), 4) +
         little_endian(0, 2);
}

}  // namespace perceiver::testing
