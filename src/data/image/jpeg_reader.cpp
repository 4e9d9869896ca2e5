#include <cstddef>
#include <cstdio>
// libjpeg's header needs the two above,
#include <jpeglib.h>
// and this one needs libjpeg's.
#include <jerror.h>

#include <algorithm>
#include <csetjmp>
#include <iterator>
#include <vector>

#include "base/check.h"
#include "base/text.h"
#include "data/image/exif.h"
#include "data/image/image_reader.h"
#include "data/image/jpeg_strays.h"

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
    session->stop();
  }
  [[noreturn]] void stop() { std::longjmp(jump, 1); }
  void say_truncated() { std::snprintf(message, sizeof message, "the file is truncated"); }
  [[noreturn]] void stop_truncated() {
    say_truncated();
    stop();
  }
  /// Almost all warnings mean that libjpeg made up data.
  static void warn(j_common_ptr jpeg, int level) {
    auto* session = static_cast<JpegSession*>(jpeg->client_data);
    if (level >= 0) return;
    switch (jpeg->err->msg_code) {
      case JWRN_ADOBE_XFORM:
      case JWRN_JFIF_MAJOR:
      case JWRN_BOGUS_ICC:
        return;
      case JWRN_JPEG_EOF:
        session->ends_early = true;
        return;
      case JWRN_EXTRANEOUS_DATA:
      case JWRN_NOT_SEQUENTIAL:
        session->remark(jpeg);
        return;
      case JWRN_HIT_MARKER:
        if (session->ends_early) session->stop_truncated();
        [[fallthrough]];
      default:
        fail(jpeg);
    }
  }
  /// Keeps the first warning.
  void remark(j_common_ptr common) {
    if (warning[0] == '\0') common->err->format_message(common, warning);
  }
  /// Called regularly during decoding.
  static void watch(j_common_ptr jpeg) {
    auto* session = static_cast<JpegSession*>(jpeg->client_data);
    if (session->jpeg.input_scan_number <= session->limits.progressive_scans) return;
    std::snprintf(session->message, sizeof session->message, "more than %d scans",
                  session->limits.progressive_scans);
    session->stop();
  }

  ImageLimits limits;
  const unsigned char* bytes = nullptr;
  size_t size = 0;
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg_progress_mgr progress{};
  bool created = false;
  bool ends_early = false;  ///< libjpeg has put an end marker where the file ended
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX] = "";
  char warning[JMSG_LENGTH_MAX] = "";
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
  if (session.ends_early) session.stop_truncated();
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

/// Whether every coefficient of a file that ends early has arrived. Within a scan, libjpeg warns of bits that
/// are has_missing_bits (JWRN_HIT_MARKER); it does not know of scans that are, nor of arithmetic codes.
bool has_all_scans(const jpeg_decompress_struct& jpeg) {
  if (jpeg.arith_code != FALSE) return false;
  if (!jpeg_has_multiple_scans(const_cast<jpeg_decompress_struct*>(&jpeg))) return true;
  if (jpeg.coef_bits == nullptr) return false;
  const auto has_missing_bits = [](int bits) { return bits != 0; };
  return std::none_of(jpeg.coef_bits, jpeg.coef_bits + jpeg.num_components, [&](const auto& component) {
    return std::any_of(std::begin(component), std::end(component), has_missing_bits);
  });
}

void start(JpegSession& session) {
  jpeg_start_decompress(&session.jpeg);
  if (session.ends_early && !has_all_scans(session.jpeg)) session.stop_truncated();
}

/// One row of CMYK to RGB in place. Adobe's files store 255 − ink.
void inks_to_light(std::vector<uint8_t>& row, bool inverted) {
  const auto light = [&](int value) { return inverted ? value : 255 - value; };
  uint8_t* to = row.data();
  for (const uint8_t* from = row.data(); from != row.data() + row.size(); from += 4, to += 3) {
    const int black = light(from[3]);
    for (int c = 0; c < 3; ++c) to[c] = static_cast<uint8_t>((light(from[c]) * black + 127) / 255);
  }
}

/// Hands over all rows. An exception of `rows` does not pass through libjpeg.
void read_rows(JpegSession& session, int64_t channels, const std::string& source, ImageRows& rows) {
  if (!guarded(session, [&] { start(session); })) throw_damaged(session, source);
  std::vector<uint8_t> row(static_cast<size_t>(session.jpeg.image_width * channels));
  JSAMPROW address = row.data();
  while (session.jpeg.output_scanline < session.jpeg.output_height) {
    if (!guarded(session, [&] { jpeg_read_scanlines(&session.jpeg, &address, 1); }))
      throw_damaged(session, source);
    if (channels == 4) inks_to_light(row, session.jpeg.saw_Adobe_marker != FALSE);
    rows.row(row.data());
  }
  if (session.ends_early && session.jpeg.arith_code != FALSE) {
    session.say_truncated();
    throw_damaged(session, source);
  }
}

/// Everything after the header.
void decode(JpegSession& session, bool passes, const SourceFile& file, const ImageReading& reading,
            ImageRows& rows) {
  const int64_t width = session.jpeg.image_width, height = session.jpeg.image_height;
  check_image_size(width, height, passes ? "a progressive JPEG" : nullptr, file.path, reading.limits);
  const int64_t channels = choose_colours(session.jpeg);
  if (channels == 0)
    throw_user(
        "{}: a JPEG with {} components of unknown meaning; grey, RGB, YCbCr, CMYK and YCCK are supported",
        file.path, session.jpeg.num_components);
  const ExifOrientation exif = reading.exif ? jpeg_orientation(file.bytes) : ExifOrientation{};
  rows.begin(
      {.width = width, .height = height, .channels = channels == 1 ? 1 : 3, .orientation = exif.value});
  read_rows(session, channels, file.path, rows);
  const bool ended = guarded(session, [&] { jpeg_finish_decompress(&session.jpeg); });
  report_damage(exif, file);
  if (session.warning[0] != '\0') file.repaired(fmt::format("JPEG: {}", printable(session.warning)));
  if (!ended) file.repaired(fmt::format("JPEG, after the last row: {}", printable(session.message)));
  if (session.ends_early) file.repaired("JPEG: the file ends before its end marker, but all rows are there");
}

}  // namespace

void scan_jpeg(const SourceFile& file, const ImageReading& reading, ImageRows& rows) {
  JpegSession session(file.bytes, reading.limits);
  if (!guarded(session, [&] { read_header(session); })) throw_damaged(session, file.path);
  const bool passes = jpeg_has_multiple_scans(&session.jpeg) != FALSE;
  if (!passes && session.jpeg.restart_interval == 0) {
    const size_t scan = session.size - session.jpeg.src->bytes_in_buffer;
    const std::string clean = without_stray_restarts(file.bytes, scan);
    if (!clean.empty()) {
      scan_jpeg({file.path, std::as_bytes(std::span(clean)), file.strict, file.repairs}, reading, rows);
      return file.repaired("JPEG: stray restart markers were removed");
    }
  }
  decode(session, passes, file, reading, rows);
}

}  // namespace perceiver
