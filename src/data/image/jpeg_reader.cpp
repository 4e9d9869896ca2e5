#include <cstddef>
#include <cstdio>
// libjpeg's header needs the two above,
#include <jpeglib.h>
// and this one needs libjpeg's.
#include <jerror.h>

#include <algorithm>
#include <csetjmp>

#include "base/check.h"
#include "base/text.h"
#include "data/image/image_reader.h"

namespace perceiver {
namespace {

/// libjpeg's state. Its errors leave through `jump` without running destructors, so objects that need one
/// live outside `guarded`.
struct JpegSession {
  JpegSession(std::span<const std::byte> file, const ImageLimits& limits_) : limits(limits_) {
    jpeg.err = jpeg_std_error(&errors);
    jpeg.client_data = this;
    errors.error_exit = fail;
    errors.emit_message = warn;
    errors.output_message = [](j_common_ptr) {};
    size = file.size();
    bytes = reinterpret_cast<const unsigned char*>(file.data());
  }
  ~JpegSession() {
    if (created) jpeg_destroy_decompress(&jpeg);
  }
  JpegSession(const JpegSession&) = delete;
  JpegSession& operator=(const JpegSession&) = delete;

  [[noreturn]] static void fail(j_common_ptr jpeg) {
    auto* session = static_cast<JpegSession*>(jpeg->client_data);
    jpeg->err->format_message(jpeg, session->message);
    std::longjmp(session->jump, 1);
  }
  /// Almost all warnings mean that libjpeg made up data.
  static void warn(j_common_ptr jpeg, int level) {
    const int code = jpeg->err->msg_code;
    const bool harmless = code == JWRN_EXTRANEOUS_DATA || code == JWRN_ADOBE_XFORM ||
                          code == JWRN_JFIF_MAJOR || code == JWRN_BOGUS_ICC;
    if (level < 0 && !harmless) fail(jpeg);
  }
  /// Called regularly during decoding.
  static void watch(j_common_ptr jpeg) {
    auto* session = static_cast<JpegSession*>(jpeg->client_data);
    if (session->jpeg.input_scan_number <= session->limits.progressive_scans) return;
    std::snprintf(session->message, sizeof session->message, "more than %d scans",
                  session->limits.progressive_scans);
    std::longjmp(session->jump, 1);
  }

  ImageLimits limits;
  const unsigned char* bytes = nullptr;
  size_t size = 0;
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  bool created = false;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX] = "";
};

/// Runs `step`; false if libjpeg failed in it.
template <typename Step>
bool guarded(JpegSession& session, Step step) {
  if (setjmp(session.jump) != 0) return false;
  step();
  return true;
}

[[noreturn]] void throw_damaged(const JpegSession& session, const std::string& source) {
  const size_t left = session.jpeg.src != nullptr ? session.jpeg.src->bytes_in_buffer : session.size;
  throw_user("{}: byte {}: damaged JPEG: {}", source, session.size - std::min(left, session.size),
             printable(session.message));
}

void read_header(JpegSession& session) {
  session.created = true;  // jpeg_destroy_decompress works even if the next line fails
  jpeg_create_decompress(&session.jpeg);
  session.progress.progress_monitor = JpegSession::watch;
  session.jpeg.progress = &session.progress;
  jpeg_mem_src(&session.jpeg, session.bytes, session.size);
  jpeg_read_header(&session.jpeg, TRUE);
}

/// Chooses the output colour space; returns the number of channels, or 0 if libjpeg cannot convert.
int64_t choose_colours(jpeg_decompress_struct& jpeg) {
  switch (jpeg.jpeg_color_space) {
    case JCS_GRAYSCALE:
      jpeg.out_color_space = JCS_GRAYSCALE;
      return 1;
    case JCS_YCbCr:
    case JCS_RGB:
      jpeg.out_color_space = JCS_RGB;
      return 3;
    case JCS_CMYK:
    case JCS_YCCK:
      jpeg.out_color_space = JCS_CMYK;
      return 4;
    default:
      return 0;
  }
}

void read_rows(JpegSession& session, uint8_t* out, size_t row_bytes) {
  jpeg_start_decompress(&session.jpeg);
  while (session.jpeg.output_scanline < session.jpeg.output_height) {
    JSAMPROW row = out + session.jpeg.output_scanline * row_bytes;
    jpeg_read_scanlines(&session.jpeg, &row, 1);
  }
  jpeg_finish_decompress(&session.jpeg);
}

/// CMYK to RGB in place; pixels move towards the front. Adobe's files store 255 − ink.
void inks_to_light(Image& image, bool inverted) {
  const uint8_t* from = image.pixels.data();
  uint8_t* to = image.pixels.data();
  const auto light = [&](int value) { return inverted ? value : 255 - value; };
  for (int64_t i = 0; i < image.width * image.height; ++i, from += 4, to += 3) {
    const int black = light(from[3]);
    for (int c = 0; c < 3; ++c) to[c] = static_cast<uint8_t>((light(from[c]) * black + 127) / 255);
  }
  image.channels = 3;
  image.pixels.resize(static_cast<size_t>(image.width * image.height * 3));
}

}  // namespace

Image read_jpeg(std::span<const std::byte> bytes, const std::string& source, const ImageLimits& limits) {
  JpegSession session(bytes, limits);
  if (!guarded(session, [&] { read_header(session); })) throw_damaged(session, source);
  check_image_size(session.jpeg.image_width, session.jpeg.image_height, source, limits);
  const int64_t channels = choose_colours(session.jpeg);
  if (channels == 0)
    throw_user(
        "{}: a JPEG with {} components of unknown meaning; grey, RGB, YCbCr, CMYK and YCCK are supported",
        source, session.jpeg.num_components);
  Image image(session.jpeg.image_width, session.jpeg.image_height, channels);
  uint8_t* out = image.pixels.data();
  const auto row_bytes = static_cast<size_t>(image.width * channels);
  if (!guarded(session, [&] { read_rows(session, out, row_bytes); })) throw_damaged(session, source);
  if (channels == 4) inks_to_light(image, session.jpeg.saw_Adobe_marker != FALSE);
  return image;
}

}  // namespace perceiver
