#include <mpg123.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "data/audio/sound_reader.h"

namespace perceiver {
namespace {

/// The bytes as a file for mpg123.
struct Mp3Bytes {
  std::span<const std::byte> bytes;
  off_t at = 0;

  static ssize_t read(void* file, void* out, size_t count) {
    auto& self = *static_cast<Mp3Bytes*>(file);
    const auto size = static_cast<off_t>(self.bytes.size());
    const off_t have = std::clamp<off_t>(size - self.at, 0, static_cast<off_t>(count));
    std::memcpy(out, self.bytes.data() + std::min(self.at, size), static_cast<size_t>(have));
    self.at += have;
    return static_cast<ssize_t>(have);
  }
  static off_t seek(void* file, off_t offset, int whence) {
    auto& self = *static_cast<Mp3Bytes*>(file);
    const off_t base = whence == SEEK_SET   ? 0
                       : whence == SEEK_CUR ? self.at
                                            : static_cast<off_t>(self.bytes.size());
    off_t target = 0;
    if (__builtin_add_overflow(base, offset, &target) || target < 0) return -1;
    return self.at = target;
  }
};

/// mpg123 itself instead of libsndfile, which lets it write its warnings to the terminal, and does not have
/// it at all before version 1.1.
class Mp3Reader final : public SoundReader {
 public:
  Mp3Reader(std::span<const std::byte> frames, const std::string& source) : file_{frames} {
    static std::once_flag once;  // needed before version 1.27
    std::call_once(once, [] { mpg123_init(); });
    int error = MPG123_OK;
    mp3_.reset(mpg123_new(nullptr, &error));
    if (mp3_ == nullptr) throw_failure("libmpg123: {}", mpg123_plain_strerror(error));
    mpg123_param(mp3_.get(), MPG123_ADD_FLAGS, MPG123_QUIET | MPG123_FORCE_FLOAT | MPG123_SKIP_ID3V2, 0);
    mpg123_param(mp3_.get(), MPG123_REMOVE_FLAGS, MPG123_AUTO_RESAMPLE, 0);
    mpg123_param(mp3_.get(), MPG123_RESYNC_LIMIT, -1, 0);
    mpg123_replace_reader_handle(mp3_.get(), Mp3Bytes::read, Mp3Bytes::seek, nullptr);
    int encoding = 0;
    const bool opened = mpg123_open_handle(mp3_.get(), &file_) == MPG123_OK &&
                        mpg123_getformat(mp3_.get(), &rate_, &channels_, &encoding) == MPG123_OK;
    if (!opened || encoding != MPG123_ENC_FLOAT_32 || channels_ < 1)
      throw_user("{}: not a supported audio file: MP3: {}", source, printable(mpg123_strerror(mp3_.get())));
    // Files may be joined from several; the first decides the format.
    mpg123_format_none(mp3_.get());
    mpg123_format(mp3_.get(), rate_, channels_, MPG123_ENC_FLOAT_32);
    if (has_length(frames)) announced_ = std::max<int64_t>(0, mpg123_length(mp3_.get()));
  }

  int channels() const override { return channels_; }
  int rate() const override { return static_cast<int>(rate_); }
  int64_t announced() const override { return announced_; }

  int64_t read(std::span<float> out) override {
    const size_t frame_bytes = sizeof(float) * static_cast<size_t>(channels_);
    size_t done = 0;
    while (done == 0 && !ended_) {
      const int result = mpg123_read(mp3_.get(), reinterpret_cast<unsigned char*>(out.data()),
                                     out.size_bytes() / frame_bytes * frame_bytes, &done);
      if (result == MPG123_NEW_FORMAT) continue;  // another part, in the same format by the line above
      ended_ = result != MPG123_OK;
      if (ended_ && result != MPG123_DONE) damage_ = printable(mpg123_strerror(mp3_.get()));
    }
    return static_cast<int64_t>(done / frame_bytes);
  }
  std::string damage() const override { return damage_; }

 private:
  /// Encoders note the number of frames in the first one; otherwise mpg123 guesses.
  static bool has_length(std::span<const std::byte> frames) {
    const std::string_view text(reinterpret_cast<const char*>(frames.data()),
                                std::min<size_t>(frames.size(), 64));
    return text.find("Xing") != std::string_view::npos || text.find("Info") != std::string_view::npos;
  }

  Mp3Bytes file_;
  std::unique_ptr<mpg123_handle, void (*)(mpg123_handle*)> mp3_{nullptr, mpg123_delete};
  long rate_ = 0;
  int channels_ = 0;
  int64_t announced_ = 0;
  bool ended_ = false;
  std::string damage_;
};

}  // namespace

std::unique_ptr<SoundReader> open_mp3_reader(std::span<const std::byte> frames, const std::string& source) {
  return std::make_unique<Mp3Reader>(frames, source);
}

}  // namespace perceiver
