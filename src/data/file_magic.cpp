#include "data/file_magic.h"

#include <fmt/format.h>

namespace perceiver {
namespace {

using namespace std::string_view_literals;

struct Magic {
  std::string_view bytes;
  std::string_view name;
};

/// The longer of two that begin alike comes first.
constexpr Magic table[] = {
    {"\xFF\xFE\0\0"sv, "is UTF-32 text; convert it: iconv -f UTF-32 -t UTF-8"},
    {"\0\0\xFE\xFF"sv, "is UTF-32 text; convert it: iconv -f UTF-32 -t UTF-8"},
    {"\xFF\xFE"sv, "is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"},
    {"\xFE\xFF"sv, "is UTF-16 text; convert it: iconv -f UTF-16 -t UTF-8"},
    {"\x1F\x8B"sv, "is compressed with gzip; unpack it: gunzip"},
    {"\x28\xB5\x2F\xFD"sv, "is compressed with Zstandard; unpack it: unzstd"},
    {"\xFD\x37zXZ\0"sv, "is compressed with xz; unpack it: unxz"},
    {"BZh"sv, "is compressed with bzip2; unpack it: bunzip2"},
    {"PK\x03\x04"sv, "is a ZIP archive (.docx, .odt and .epub are such archives, too); unpack or convert it"},
    {"PK\x05\x06"sv, "is an empty ZIP archive"},
    {"7z\xBC\xAF\x27\x1C"sv, "is a 7z archive; unpack it"},
    {"Rar!\x1A\x07"sv, "is a RAR archive; unpack it"},
    {"%PDF-"sv, "is a PDF document; convert it: pdftotext"},
    {"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"sv,
     "is an old Office document (.doc, .xls, .ppt); convert it to text"},
    {"\xFF\xD8\xFF"sv, "is a JPEG picture, for data.type: image"},
    {"\x89PNG\r\n\x1A\n"sv, "is a PNG picture, for data.type: image"},
    {"GIF87a"sv, "is a GIF picture"},
    {"GIF89a"sv, "is a GIF picture"},
    {"MThd"sv, "is a MIDI file, for data.type: music"},
    {"fLaC"sv, "is FLAC sound, for data.type: audio"},
    {"OggS"sv, "is an Ogg file, perhaps for data.type: audio"},
    {"ID3"sv, "is sound with an ID3 tag, perhaps for data.type: audio"},
    {"\x93NUMPY"sv, "is a NumPy array, for data.type: codec or tokens"},
    {"PERCSHRD"sv, "is a shard; give the folder that `perceiver data build` made"},
    {"\x7F"
     "ELF"sv,
     "is a program"},
    {"SQLite format 3\0"sv, "is an SQLite database"},
};

std::string_view riff_kind(std::string_view first_bytes) {
  if (!first_bytes.starts_with("RIFF") || first_bytes.size() < 12) return {};
  const std::string_view form = first_bytes.substr(8, 4);
  if (form == "WAVE") return "is WAV sound, for data.type: audio";
  if (form == "WEBP") return "is a WebP picture";
  if (form == "RMID") return "is a MIDI file in RIFF, for data.type: music";
  return "is a RIFF file";
}

/// UTF-16 of Latin letters without a mark: every other byte is 0.
std::string_view unmarked_utf16(std::string_view text) {
  text = text.substr(0, text.size() / 2 * 2);
  size_t zeros[2] = {0, 0};
  for (size_t i = 0; i < text.size(); ++i) zeros[i % 2] += text[i] == '\0' ? 1 : 0;
  const size_t half = text.size() / 2;
  if (half < 2 || zeros[0] + zeros[1] != half) return {};
  if (zeros[1] == half) return "seems to be UTF-16 text; convert it: iconv -f UTF-16LE -t UTF-8";
  if (zeros[0] == half) return "seems to be UTF-16 text; convert it: iconv -f UTF-16BE -t UTF-8";
  return {};
}

}  // namespace

std::string name_content(std::string_view first_bytes) {
  for (const Magic& magic : table)
    if (first_bytes.starts_with(magic.bytes)) return std::string(magic.name);
  const std::string_view riff = riff_kind(first_bytes);
  return std::string(riff.empty() ? unmarked_utf16(first_bytes.substr(0, magic_bytes)) : riff);
}

}  // namespace perceiver
