#include "io/content_kind.h"

#include <algorithm>

#include "base/text.h"

namespace perceiver {
namespace {

using namespace std::string_view_literals;

struct Signature {
  std::string_view bytes;
  size_t offset;
  std::string_view kind;
};

constexpr Signature kSignatures[] = {
    {"\x89PNG\r\n\x1a\n"sv, 0, "a PNG image"},
    {"\xff\xd8\xff"sv, 0, "a JPEG image"},
    {"GIF8"sv, 0, "a GIF image"},
    {"WEBP"sv, 8, "a WebP image"},
    {"WAVE"sv, 8, "a WAV file"},
    {"MThd"sv, 0, "a MIDI file"},
    {"fLaC"sv, 0, "a FLAC file"},
    {"OggS"sv, 0, "an Ogg file"},
    {"%PDF"sv, 0, "a PDF document"},
    {"\x1f\x8b"sv, 0, "a gzip archive"},
    {"\x28\xb5\x2f\xfd"sv, 0, "a zstd archive"},
    {"\xfd"
     "7zXZ"sv,
     0, "an xz archive"},
    {"PK\x03\x04"sv, 0, "a zip archive, as PyTorch writes them"},
    {"\x80\x02"sv, 0, "a Python pickle"},
    {"\x93NUMPY"sv, 0, "a NumPy array"},
    {"\x7f"
     "ELF"sv,
     0, "a program"},
    {"GGUF"sv, 0, "a GGUF model"},
    {"\x89HDF\r\n"sv, 0, "an HDF5 file"},
    {"\xff\xfe"sv, 0, "UTF-16 text"},
    {"\xfe\xff"sv, 0, "UTF-16 text"},
};

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
  for (const Signature& each : kSignatures)
    if (head.size() >= each.offset && head.substr(each.offset).starts_with(each.bytes)) return each.kind;
  return is_text(head) ? "text" : "binary data";
}

}  // namespace perceiver
