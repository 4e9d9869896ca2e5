#include "data/image/image_format.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "base/check.h"

namespace perceiver {
namespace {

using std::string_view_literals::operator""sv;

struct Signature {
  size_t offset;
  std::string_view bytes;
  const char* name;     ///< with its article
  const char* command;  ///< null: it is no picture
};

// The major brand of an ISO media file is at byte 8, after its box's size and "ftyp".
constexpr Signature signatures[] = {
    {0, "GIF8"sv, "a GIF", "magick 'in.gif[0]' out.png"},
    {0, "BM"sv, "a BMP", "magick in.bmp out.png"},
    {0, "II*\0"sv, "a TIFF or a camera's raw file", "magick in.tif out.png"},
    {0, "MM\0*"sv, "a TIFF or a camera's raw file", "magick in.tif out.png"},
    {0, "II+\0"sv, "a TIFF", "magick in.tif out.png"},
    {0, "MM\0+"sv, "a TIFF", "magick in.tif out.png"},
    {8, "WEBPVP8"sv, "a WebP picture", "dwebp in.webp -o out.png"},
    {4, "ftypavif"sv, "an AVIF picture", "avifdec in.avif out.png"},
    {4, "ftypavis"sv, "an AVIF picture", "avifdec in.avif out.png"},
    {4, "ftyphe"sv, "a HEIC picture", "heif-convert in.heic out.png"},
    {4, "ftypmif1"sv, "a HEIF picture", "heif-convert in.heif out.png"},
    {4, "ftypmsf1"sv, "a HEIF picture", "heif-convert in.heif out.png"},
    {4, "ftypcrx "sv, "a camera's raw file", "magick in.cr3 out.png"},
    {4, "ftyp"sv, "a video", "ffmpeg -i in.mp4 -frames:v 1 out.png"},
    {0, "\xFF\x0A"sv, "a JPEG XL picture", "djxl in.jxl out.png"},
    {4, "JXL \r\n\x87\n"sv, "a JPEG XL picture", "djxl in.jxl out.png"},
    {4, "jP  \r\n\x87\n"sv, "a JPEG 2000 picture", "magick in.jp2 out.png"},
    {0, "\xFF\x4F\xFF\x51"sv, "a JPEG 2000 picture", "magick in.j2k out.png"},
    {0, "8BPS"sv, "a Photoshop file", "magick 'in.psd[0]' out.png"},
    {0, "\0\0\1\0"sv, "an icon file", "magick 'in.ico[0]' out.png"},
    {0, "\x76\x2F\x31\x01"sv, "an OpenEXR picture", "magick in.exr out.png"},
    {0, "qoif"sv, "a QOI picture", "magick in.qoi out.png"},
    {0, "%PDF"sv, "a PDF file", "pdftoppm -png in.pdf out"},
    {0, "%!PS"sv, "a PostScript file", "magick in.eps out.png"},
    {0, "P4\n"sv, "a PBM picture", "magick in.pbm out.png"},
    {0, "P5\n"sv, "a PGM picture", "magick in.pgm out.png"},
    {0, "P6\n"sv, "a PPM picture", "magick in.ppm out.png"},
    {0, "PK\x03\x04"sv, "a ZIP archive", nullptr},
    {0, "\x1F\x8B"sv, "a gzip file", nullptr},
};

bool holds(std::string_view file, const Signature& signature) {
  return file.size() >= signature.offset && file.substr(signature.offset).starts_with(signature.bytes);
}

/// SVG and HTML are text, and may start with a declaration or comments.
bool mentions(std::string_view file, std::string_view tag) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  const std::string_view start = file.substr(0, 1024);
  const size_t text = start.find_first_not_of("\xEF\xBB\xBF \t\r\n");
  if (text == std::string_view::npos || start[text] != '<') return false;
  return std::search(start.begin(), start.end(), tag.begin(), tag.end(),
                     [&](char a, char b) { return lower(a) == b; }) != start.end();
}

std::string refusal(std::string_view name, const char* command) {
  if (command == nullptr) return fmt::format("is {}; only PNG and JPEG pictures are read", name);
  return fmt::format("is {}; only PNG and JPEG are read, so convert it: {}", name, command);
}

}  // namespace

ImageFormat image_format(std::span<const std::byte> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  if (text.starts_with("\x89PNG\r\n\x1A\n"sv)) return ImageFormat::png;
  return text.starts_with("\xFF\xD8\xFF"sv) ? ImageFormat::jpeg : ImageFormat::other;
}

std::string describe_other_image(std::span<const std::byte> file) {
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  for (const Signature& signature : signatures)
    if (holds(text, signature)) return refusal(signature.name, signature.command);
  if (mentions(text, "<svg")) return refusal("an SVG drawing", "rsvg-convert in.svg -o out.png");
  if (mentions(text, "<html")) return refusal("a web page", nullptr);
  return "byte 0: neither PNG nor JPEG, judging by its first bytes";
}

}  // namespace perceiver
