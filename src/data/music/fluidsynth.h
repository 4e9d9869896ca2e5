// Renders MIDI to audio with the program fluidsynth, if installed.
#pragma once

#include <string>
#include <string_view>

namespace perceiver {

/// Renders a MIDI file to a WAV file (44.1 kHz, stereo, 16 bits). Runs `fluidsynth` from PATH with the sound
/// font named by the environment variable SOUNDFONT, or one installed by a package. Throws `user`, naming
/// what to install, if the program or a sound font is missing, `failure` if the program fails.
std::string render_wav(std::string_view midi);

}  // namespace perceiver
