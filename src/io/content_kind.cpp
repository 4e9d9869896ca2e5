#include "io/content_kind.h"

#include <algorithm>

#include "base/text.h"

namespace perceiver {
namespace {

using namespace std::string_view_literals;

struct ContentKind {
  std::string_view name;    ///< "a PDF document"; empty if unknown
  std::string_view advice;  ///< how to read it nevertheless, with the punctuation before it
};

struct Signature {
  std::string_view bytes;
  std::string_view name, advice;
};

/// The longer of two that begin alike comes first.
constexpr Signature kSignatures[] = {
    {"\xFF\xFE\0\0"sv, "UTF-32 text", "; convert it: iconv -f UTF-32 -t UTF-8"},
    {"\0\0\xFE\xFF"sv, "UTF-32 text", "; convert it: iconv -f UTF-32 -t UTF-8"},
    {"\xFF\xFE"sv, "UTF-16 text", "; convert it: iconv -f UTF-16 -t UTF-8"},
    {"\xFE\xFF"sv, "UTF-16 text", "; convert it: iconv -f UTF-16 -t UTF-8"},
    {"\x1F\x8B"sv, "compressed with gzip", "; unpack it: gunzip"},
    {"\x28\xB5\x2F\xFD"sv, "compressed with Zstandard", "; unpack it: unzstd"},
    {"\xFD\x37zXZ\0"sv, "compressed with xz", "; unpack it: unxz"},
    {"BZh"sv, "compressed with bzip2", "; unpack it: bunzip2"},
    {"PK\x03\x04"sv, "a ZIP archive",
     " (PyTorch checkpoints, .docx, .odt and .epub are such archives, too); unpack or convert it"},
    {"PK\x05\x06"sv, "an empty ZIP archive", ""},
    {"7z\xBC\xAF\x27\x1C"sv, "a 7z archive", "; unpack it"},
    {"Rar!\x1A\x07"sv, "a RAR archive", "; unpack it"},
    {"%PDF-"sv, "a PDF document", "; convert it: pdftotext"},
    {"\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1"sv, "an old Office document (.doc, .xls, .ppt)",
     "; convert it to text"},
    {"\xFF\xD8\xFF"sv, "a JPEG picture", ", for data.type: image"},
    {"\x89PNG\r\n\x1A\n"sv, "a PNG picture", ", for data.type: image"},
    {"GIF87a"sv, "a GIF picture", ""},
    {"GIF89a"sv, "a GIF picture", ""},
    {"MThd"sv, "a MIDI file", ", for data.type: music"},
    {"fLaC"sv, "FLAC sound", ", for data.type: audio"},
    {"OggS"sv, "an Ogg file", ", perhaps for data.type: audio"},
    {"ID3"sv, "sound with an ID3 tag", ", perhaps for data.type: audio"},
    {"\x93NUMPY"sv, "a NumPy array", ", for data.type: codec or tokens"},
    {"PERCSHRD"sv, "a shard", "; give the folder that `perceiver data build` made"},
    {"\x7F"
     "ELF"sv,
     "a program", ""},
    {"\x80\x02"sv, "a Python pickle", ""},
    {"GGUF"sv, "a GGUF model", ""},
    {"\x89HDF\r\n"sv, "an HDF5 file", ""},
    {"SQLite format 3\0"sv, "an SQLite database", ""},
};

ContentKind riff_kind(std::string_view head) {
  if (!head.starts_with("RIFF") || head.size() < 12) return {};
  const std::string_view form = head.substr(8, 4);
  if (form == "WAVE") return {"WAV sound", ", for data.type: audio"};
  if (form == "WEBP") return {"a WebP picture", ""};
  if (form == "RMID") return {"a MIDI file in RIFF", ", for data.type: music"};
  return {"a RIFF file", ""};
}

/// UTF-16 of Latin letters without a mark: every other byte is 0.
ContentKind unmarked_utf16(std::string_view text) {
  text = text.substr(0, text.size() / 2 * 2);
  size_t zeros[2] = {0, 0};
  for (size_t i = 0; i < text.size(); ++i) zeros[i % 2] += text[i] == '\0' ? 1 : 0;
  const size_t half = text.size() / 2;
  if (half < 2 || zeros[0] + zeros[1] != half) return {};
  if (zeros[1] == half) return {"UTF-16 text", "; convert it: iconv -f UTF-16LE -t UTF-8"};
  if (zeros[0] == half) return {"UTF-16 text", "; convert it: iconv -f UTF-16BE -t UTF-8"};
  return {};
}

ContentKind find_kind(std::string_view head) {
  for (const Signature& each : kSignatures)
    if (head.starts_with(each.bytes)) return {each.name, each.advice};
  const ContentKind riff = riff_kind(head);
  return riff.name.empty() ? unmarked_utf16(head.substr(0, magic_bytes)) : riff;
}

/// Whether it is text except for a character that may be cut off at the end.
bool is_text(std::string_view head) {
  constexpr size_t kLongestCut = 3;
  if (utf8_prefix(head) + kLongestCut < head.size()) return false;
  return std::none_of(head.begin(), head.end(), [](unsigned char c) {
    return c < 0x20 && c != '\t' && c != '\n' && c != '\r' && c != '\f';
  });
}

}  // namespace

std::string_view content_kind(std::string_view head) {
  if (head.empty()) return "empty";
  const ContentKind kind = find_kind(head);
  if (!kind.name.empty()) return kind.name;
  return is_text(head) ? "text" : "binary data";
}

std::string name_content(std::string_view head) {
  const ContentKind kind = find_kind(head);
  return kind.name.empty() ? "" : "is " + std::string(kind.name) + std::string(kind.advice);
}

}  // namespace perceiver
