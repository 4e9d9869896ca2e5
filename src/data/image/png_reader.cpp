#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "base/text.h"
#include "data/image/exif.h"
#include "data/image/image_reader.h"

namespace perceiver {
namespace {

constexpr png_alloc_size_t longest_chunk = 8 << 20;  ///< of chunks that libpng keeps in memory
constexpr png_uint_32 most_chunks = 128;

/// libpng's state. Its errors leave through `jump` without running destructors, so objects that need one live
/// outside `guarded`.
struct PngSession {
  explicit PngSession(std::span<const std::byte> file) : bytes(file) {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, fail, ignore);
    if (png != nullptr) info = png_create_info_struct(png);
    if (info == nullptr) throw_failure("libpng cannot be used: out of memory, or another version");
  }
  ~PngSession() { png_destroy_read_struct(&png, &info, nullptr); }
  PngSession(const PngSession&) = delete;
  PngSession& operator=(const PngSession&) = delete;

  [[noreturn]] static void fail(png_structp png, png_const_charp message) {
    auto* session = static_cast<PngSession*>(png_get_error_ptr(png));
    std::snprintf(session->message, sizeof session->message, "%s", message);
    std::longjmp(session->jump, 1);
  }
  static void ignore(png_structp, png_const_charp) {}
  static void read(png_structp png, png_bytep out, size_t count) {
    auto* session = static_cast<PngSession*>(png_get_io_ptr(png));
    if (count > session->bytes.size() - session->offset) {
      session->truncated = true;
      png_error(png, "the file is truncated");
    }
    std::memcpy(out, session->bytes.data() + session->offset, count);
    session->offset += count;
  }

  /// Called for each row when it is decompressed, before libpng looks for what follows it.
  static void note_row(png_structp png, png_row_infop, png_bytep) {
    static_cast<PngSession*>(png_get_user_transform_ptr(png))->row_complete = true;
  }

  std::span<const std::byte> bytes;
  size_t offset = 0;
  bool truncated = false;
  bool row_complete = false;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::jmp_buf jump;
  char message[120] = "";
};

/// Runs `step`; false if libpng failed in it.
template <typename Step>
bool guarded(PngSession& session, Step step) {
  if (setjmp(session.jump) != 0) return false;
  step();
  return true;
}

[[noreturn]] void throw_damaged(const PngSession& session, const std::string& source) {
  throw_user("{}: byte {}: damaged PNG: {}", source, session.offset, printable(session.message));
}

/// Skips texts and colour profiles, which are not used.
void skip_texts(png_structp png) {
  static const png_byte names[] = "iCCP\0tEXt\0zTXt\0iTXt\0eXIf\0sPLT";
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, names, 6);
}

void read_header(PngSession& session) {
  png_structp png = session.png;
  png_set_read_fn(png, &session, PngSession::read);
  png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // check_image_size says it better
  png_set_chunk_malloc_max(png, longest_chunk);
  png_set_chunk_cache_max(png, most_chunks);
  skip_texts(png);
  png_read_info(png, session.info);
  png_set_expand(png);
  png_set_scale_16(png);
  png_set_read_user_transform_fn(png, PngSession::note_row);
  png_set_user_transform_info(png, &session, 0, 0);
}

/// An image that is being decoded, as libpng gives it.
struct PngRows {
  int64_t height, channels, row_bytes;
  int passes;
};

void start(PngSession& session, PngRows& rows) {
  rows.passes = png_set_interlace_handling(session.png);
  png_read_update_info(session.png, session.info);
  if (static_cast<int64_t>(png_get_rowbytes(session.png, session.info)) != rows.row_bytes)
    png_error(session.png, "rows of an unexpected length");
}

/// Reads row `y` of a pass. A file that is cut off right after its last row has all its pixels; if rows are
/// interlaced, the last pass has the odd ones.
void read_row(PngSession& session, const PngRows& rows, int pass, int64_t y, uint8_t* out,
              const std::string& source) {
  session.row_complete = rows.passes > 1 && y % 2 == 0;
  if (guarded(session, [&] { png_read_row(session.png, out, nullptr); })) return;
  const bool last = pass == rows.passes - 1 && y == rows.height - 1;
  if (!(session.truncated && last && session.row_complete)) throw_damaged(session, source);
}

/// Blends pixels with the background in place, the last channel being alpha; they move towards the front.
void blend(uint8_t* pixels, int64_t count, int64_t channels, Background background) {
  const int behind = background == Background::white ? 255 : 0;
  const uint8_t* from = pixels;
  uint8_t* to = pixels;
  for (int64_t i = 0; i < count; ++i, from += channels, to += channels - 1) {
    const int alpha = from[channels - 1];
    for (int64_t c = 0; c < channels - 1; ++c)
      to[c] = static_cast<uint8_t>((from[c] * alpha + behind * (255 - alpha) + 127) / 255);
  }
}

/// Hands over all rows. An exception of `out` does not pass through libpng.
void read_rows(PngSession& session, const PngRows& rows, const ImageReading& reading,
               const std::string& source, ImageRows& out) {
  const bool held = rows.passes > 1;
  std::vector<uint8_t> pixels(static_cast<size_t>(rows.row_bytes * (held ? rows.height : 1)));
  for (int pass = 0; pass + 1 < rows.passes; ++pass)
    for (int64_t y = 0; y < rows.height; ++y)
      read_row(session, rows, pass, y, pixels.data() + y * rows.row_bytes, source);
  for (int64_t y = 0; y < rows.height; ++y) {
    uint8_t* row = pixels.data() + (held ? y * rows.row_bytes : 0);
    read_row(session, rows, rows.passes - 1, y, row, source);
    if (rows.channels % 2 == 0) blend(row, rows.row_bytes / rows.channels, rows.channels, reading.background);
    out.row(row);
  }
}

/// Channels after png_set_expand.
int64_t expanded_channels(const PngSession& session) {
  const int type = png_get_color_type(session.png, session.info);
  const bool colour = (type & PNG_COLOR_MASK_COLOR) != 0;
  const bool transparent =
      (type & PNG_COLOR_MASK_ALPHA) != 0 || png_get_valid(session.png, session.info, PNG_INFO_tRNS) != 0;
  return (colour ? 3 : 1) + (transparent ? 1 : 0);
}

}  // namespace

void scan_png(const SourceFile& file, const ImageReading& reading, ImageRows& out) {
  PngSession session(file.bytes);
  if (!guarded(session, [&] { read_header(session); })) throw_damaged(session, file.path);
  const int64_t width = png_get_image_width(session.png, session.info);
  const int64_t height = png_get_image_height(session.png, session.info);
  const bool interlaced = png_get_interlace_type(session.png, session.info) != PNG_INTERLACE_NONE;
  check_image_size(width, height, interlaced ? "an interlaced PNG" : nullptr, file.path, reading.limits);
  const int64_t channels = expanded_channels(session);
  PngRows rows{.height = height, .channels = channels, .row_bytes = width * channels, .passes = 1};
  if (!guarded(session, [&] { start(session, rows); })) throw_damaged(session, file.path);
  const ExifOrientation exif = reading.exif ? png_orientation(file.bytes) : ExifOrientation{};
  out.begin({.width = width, .height = height, .channels = channels < 3 ? 1 : 3, .orientation = exif.value});
  read_rows(session, rows, reading, file.path, out);
  const bool ended = !session.truncated && guarded(session, [&] { png_read_end(session.png, nullptr); });
  report_damage(exif, file);
  if (!ended) file.repaired(fmt::format("PNG, after the last row: {}", printable(session.message)));
}

}  // namespace perceiver
