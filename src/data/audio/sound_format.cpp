#include "data/audio/sound_format.h"

#include <string_view>

#include "base/check.h"

namespace perceiver {
namespace {

using std::string_view_literals::operator""sv;

struct Signature {
  size_t offset;
  std::string_view bytes;
  const char* name;     ///< after "is"
  const char* command;  ///< null: it is no sound
};

// The major brand of an ISO media file is at byte 8, after its box's size and "ftyp".
constexpr Signature signatures[] = {
    {4, "ftypM4"sv, "AAC or ALAC (MP4)", "ffmpeg -i in.m4a out.wav"},
    {4, "ftyp"sv, "a video or a sound of the MP4 family", "ffmpeg -i in.mp4 out.wav"},
    {0, "\xFF\xF0"sv, "AAC", "ffmpeg -i in.aac out.wav"},
    {0, "\xFF\xF1"sv, "AAC", "ffmpeg -i in.aac out.wav"},
    {0, "\xFF\xF8"sv, "AAC", "ffmpeg -i in.aac out.wav"},
    {0, "\xFF\xF9"sv, "AAC", "ffmpeg -i in.aac out.wav"},
    {0, "ADIF"sv, "AAC", "ffmpeg -i in.aac out.wav"},
    {0, "\x30\x26\xB2\x75\x8E\x66\xCF\x11"sv, "WMA", "ffmpeg -i in.wma out.wav"},
    {0, "#!AMR"sv, "AMR", "ffmpeg -i in.amr out.wav"},
    {0, "caff"sv, "a CAF file", "ffmpeg -i in.caf out.wav"},
    {0, "riff\x2E\x91\xCF\x11"sv, "a W64 file", "ffmpeg -i in.w64 out.wav"},
    {0, "NIST_1A"sv, "a NIST SPHERE file", "ffmpeg -i in.sph out.wav"},
    {0, "MAC "sv, "Monkey's Audio", "ffmpeg -i in.ape out.wav"},
    {0, "wvpk"sv, "WavPack", "ffmpeg -i in.wv out.wav"},
    {0, "TTA1"sv, "True Audio", "ffmpeg -i in.tta out.wav"},
    {0, "MPCK"sv, "Musepack", "ffmpeg -i in.mpc out.wav"},
    {0, "MP+"sv, "Musepack", "ffmpeg -i in.mpc out.wav"},
    {0, "DSD "sv, "DSD", "ffmpeg -i in.dsf out.wav"},
    {0, "ajkg"sv, "Shorten", "ffmpeg -i in.shn out.wav"},
    {0, ".ra\xFD"sv, "RealAudio", "ffmpeg -i in.ra out.wav"},
    {0, "\x1A\x45\xDF\xA3"sv, "a Matroska or WebM file", "ffmpeg -i in.webm out.wav"},
    {8, "AVI "sv, "a video", "ffmpeg -i in.avi out.wav"},
    {0, "MThd"sv, "a MIDI file (modality music)", nullptr},
    {0, "PK\x03\x04"sv, "a ZIP archive", nullptr},
    {0, "\x1F\x8B"sv, "a gzip file", nullptr},
};

constexpr const char* kinds_read = "only WAV, AIFF, AU, FLAC, Ogg and MP3 are read";

std::string_view text_of(std::span<const std::byte> file) {
  return {reinterpret_cast<const char*>(file.data()), file.size()};
}

bool holds(std::string_view file, size_t offset, std::string_view bytes) {
  return file.size() >= offset && file.substr(offset).starts_with(bytes);
}

/// A frame header of MPEG-1, 2 or 2.5 audio: ISO 11172-3 section 2.4.1.3. AAC has layer 0.
bool starts_with_mpeg_frame(std::string_view file) {
  if (file.size() < 4) return false;
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(file[i]); };
  const bool sync = byte(0) == 0xFF && (byte(1) & 0xE0) == 0xE0;
  const int version = byte(1) >> 3 & 3, layer = byte(1) >> 1 & 3, bit_rate = byte(2) >> 4,
            rate = byte(2) >> 2 & 3;
  return sync && version != 1 && layer != 0 && bit_rate != 15 && rate != 3;
}

/// Length of one tag: https://id3.org/id3v2.4.0-structure, sections 3.1 and 3.4.
uint64_t one_tag(std::string_view file) {
  if (!file.starts_with("ID3") || file.size() < 10) return 0;
  uint64_t length = 0;
  for (size_t i = 6; i < 10; ++i) length = length << 7 | (static_cast<uint8_t>(file[i]) & 0x7F);
  const bool footer = (static_cast<uint8_t>(file[5]) & 0x10) != 0;
  return length + (footer ? 20 : 10);
}

}  // namespace

SoundFormat sound_format(std::span<const std::byte> file) {
  const std::string_view text = text_of(file);
  if ((text.starts_with("RIFF") || text.starts_with("RIFX") || text.starts_with("RF64")) &&
      holds(text, 8, "WAVE"))
    return SoundFormat::wav;
  if (text.starts_with("FORM") && (holds(text, 8, "AIFF") || holds(text, 8, "AIFC")))
    return SoundFormat::aiff;
  if (text.starts_with("fLaC")) return SoundFormat::flac;
  if (text.starts_with("OggS")) return SoundFormat::ogg;
  if (text.starts_with(".snd") || text.starts_with("dns.")) return SoundFormat::au;
  return starts_with_mpeg_frame(text) ? SoundFormat::mp3 : SoundFormat::other;
}

const char* sound_format_name(SoundFormat format) {
  constexpr const char* names[] = {"WAV", "AIFF", "FLAC", "Ogg", "MP3", "AU", ""};
  return names[static_cast<size_t>(format)];
}

const char* sound_format_ending(SoundFormat format) {
  constexpr const char* endings[] = {"wav", "aiff", "flac", "ogg", "mp3", "au", ""};
  return endings[static_cast<size_t>(format)];
}

std::string describe_other_sound(std::span<const std::byte> file) {
  const std::string_view text = text_of(file);
  for (const auto& [offset, bytes, name, command] : signatures) {
    if (!holds(text, offset, bytes)) continue;
    if (command == nullptr) return fmt::format("is {}; {}", name, kinds_read);
    return fmt::format("is {}, which is not read; convert it: {}", name, command);
  }
  return fmt::format("not a supported audio file, judging by its first bytes: {}", kinds_read);
}

const char* unread_wav_codec(uint32_t tag) {
  switch (tag) {
    case 0x0022:
      return "TrueSpeech";
    case 0x0042:
      return "G.723";
    case 0x0050:
      return "MPEG audio";
    case 0x0055:
      return "MP3";
    case 0x0057:
    case 0x7A21:
    case 0x7A22:
      return "AMR";
    case 0x0083:
      return "G.729";
    case 0x00FF:
    case 0x1600:
    case 0x1601:
    case 0x1610:
    case 0x706D:
      return "AAC";
    case 0x0130:
      return "ACELP";
    case 0x0160:
    case 0x0161:
    case 0x0162:
    case 0x0163:
      return "WMA";
    case 0x0270:
    case 0x0272:
      return "ATRAC";
    case 0x2000:
      return "AC-3";
    case 0x2001:
      return "DTS";
    case 0x674F:
    case 0x6750:
    case 0x6751:
    case 0x676F:
    case 0x6770:
    case 0x6771:
      return "Vorbis";
    case 0x704F:
      return "Opus";
    case 0xA109:
      return "Speex";
    case 0xF1AC:
      return "FLAC";
    default:
      return nullptr;
  }
}

uint64_t id3_length(std::span<const std::byte> file) {
  const std::string_view text = text_of(file);
  size_t at = 0;
  while (const uint64_t length = one_tag(text.substr(at))) {
    if (length > text.size() - at) return at + length;
    at += length;
  }
  while (at > 0 && at < text.size() && text[at] == '\0') ++at;
  return at;
}

}  // namespace perceiver
