// What a sound file is, judging by its first bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace perceiver {

enum class SoundFormat { wav, aiff, flac, ogg, mp3, au, other };

SoundFormat sound_format(std::span<const std::byte> file);

/// Its name and ending, e.g. "MP3" and "mp3"; not for `other`.
const char* sound_format_name(SoundFormat format);
const char* sound_format_ending(SoundFormat format);

/// Why a file of another format is not read, and the command that converts it if it is a known one, e.g. "is
/// AAC or ALAC (MP4), which is not read; convert it: ffmpeg -i in.m4a out.wav".
std::string describe_other_sound(std::span<const std::byte> file);

/// Whether samples with that WAV format tag are of a compressed kind that is not read: its name, or null.
const char* unread_wav_codec(uint32_t tag);

/// Bytes of the ID3v2 tags at the start of a file, with the zeros behind them; 0 if there are none. May
/// exceed the file if a tag is damaged or cut short.
uint64_t id3_length(std::span<const std::byte> file);

}  // namespace perceiver
