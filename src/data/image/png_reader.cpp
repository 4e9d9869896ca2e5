#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "base/check.h"
#include "base/text.h"
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
    if (count > session->bytes.size() - session->offset) png_error(png, "the file is truncated");
    std::memcpy(out, session->bytes.data() + session->offset, count);
    session->offset += count;
  }

  std::span<const std::byte> bytes;
  size_t offset = 0;
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

void read_header(PngSession& session, const ImageLimits& limits) {
  png_structp png = session.png;
  png_set_read_fn(png, &session, PngSession::read);
  png_set_user_limits(png, static_cast<png_uint_32>(limits.side), static_cast<png_uint_32>(limits.side));
  png_set_chunk_malloc_max(png, longest_chunk);
  png_set_chunk_cache_max(png, most_chunks);
  skip_texts(png);
  png_read_info(png, session.info);
  png_set_expand(png);
  png_set_scale_16(png);
}

/// Reads all rows into `out`; an interlaced image takes seven passes.
void read_rows(PngSession& session, uint8_t* out, int64_t height, int64_t row_bytes) {
  const int passes = png_set_interlace_handling(session.png);
  png_read_update_info(session.png, session.info);
  if (static_cast<int64_t>(png_get_rowbytes(session.png, session.info)) != row_bytes)
    png_error(session.png, "rows of an unexpected length");
  for (int pass = 0; pass < passes; ++pass)
    for (int64_t y = 0; y < height; ++y) png_read_row(session.png, out + y * row_bytes, nullptr);
  png_read_end(session.png, nullptr);
}

/// Blends in place, taking the last channel as alpha; pixels move towards the front.
void blend(Image& image, Background background) {
  const int64_t channels = image.channels - 1;
  const int behind = background == Background::white ? 255 : 0;
  const uint8_t* from = image.pixels.data();
  uint8_t* to = image.pixels.data();
  for (int64_t i = 0; i < image.width * image.height; ++i, from += channels + 1, to += channels) {
    const int alpha = from[channels];
    for (int64_t c = 0; c < channels; ++c)
      to[c] = static_cast<uint8_t>((from[c] * alpha + behind * (255 - alpha) + 127) / 255);
  }
  image.channels = channels;
  image.pixels.resize(static_cast<size_t>(image.width * image.height * channels));
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

Image read_png(std::span<const std::byte> bytes, const std::string& source, Background background,
               const ImageLimits& limits) {
  PngSession session(bytes);
  if (!guarded(session, [&] { read_header(session, limits); })) throw_damaged(session, source);
  const int64_t width = png_get_image_width(session.png, session.info);
  const int64_t height = png_get_image_height(session.png, session.info);
  check_image_size(width, height, source, limits);
  Image image(width, height, expanded_channels(session));
  uint8_t* out = image.pixels.data();
  const int64_t row_bytes = width * image.channels;
  if (!guarded(session, [&] { read_rows(session, out, height, row_bytes); })) throw_damaged(session, source);
  if (image.channels == 2 || image.channels == 4) blend(image, background);
  return image;
}

}  // namespace perceiver
