// MIDI made audible by the program fluidsynth, where it is installed.
#pragma once

#include <string>
#include <string_view>

namespace perceiver {

/// A WAV file (44.1 kHz, stereo, 16 bits) of a MIDI file. Runs `fluidsynth` from PATH with the sound font
/// that the environment variable SOUNDFONT names, or the one that a Debian package brought. Throws `user`,
/// saying what to install, if the program or a sound font is missing, `failure` if the program fails.
std::string render_wav(std::string_view midi);

}  // namespace perceiver
