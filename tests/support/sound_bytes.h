// Sound files of any format that libsndfile writes.
#pragma once

#include <sndfile.h>

#include <cstring>
#include <string>
#include <vector>

namespace perceiver::testing {

/// Interleaved samples as a file of that libsndfile format; empty if the installed library cannot write it.
inline std::string sound_file(int format, int channels, int rate, const std::vector<float>& samples) {
  struct Memory {
    std::string bytes;
    sf_count_t at = 0;
  } memory;
  SF_VIRTUAL_IO io{};
  io.get_filelen = [](void* m) { return static_cast<sf_count_t>(static_cast<Memory*>(m)->bytes.size()); };
  io.seek = [](sf_count_t offset, int whence, void* m) {
    auto& file = *static_cast<Memory*>(m);
    const auto size = static_cast<sf_count_t>(file.bytes.size());
    return file.at = offset + (whence == SEEK_SET ? 0 : whence == SEEK_CUR ? file.at : size);
  };
  io.read = [](void* out, sf_count_t count, void* m) {
    auto& file = *static_cast<Memory*>(m);
    const auto part = file.bytes.substr(static_cast<size_t>(file.at), static_cast<size_t>(count));
    std::memcpy(out, part.data(), part.size());
    file.at += static_cast<sf_count_t>(part.size());
    return static_cast<sf_count_t>(part.size());
  };
  io.write = [](const void* from, sf_count_t count, void* m) {
    auto& file = *static_cast<Memory*>(m);
    const auto end = static_cast<size_t>(file.at + count);
    if (file.bytes.size() < end) file.bytes.resize(end);
    std::memcpy(file.bytes.data() + file.at, from, static_cast<size_t>(count));
    file.at += count;
    return count;
  };
  io.tell = [](void* m) { return static_cast<Memory*>(m)->at; };
  SF_INFO info{};
  info.samplerate = rate, info.channels = channels, info.format = format;
  SNDFILE* sound = sf_open_virtual(&io, SFM_WRITE, &info, &memory);
  if (sound == nullptr) return {};
  const auto frames = static_cast<sf_count_t>(samples.size()) / channels;
  const bool whole = sf_writef_float(sound, samples.data(), frames) == frames;
  sf_close(sound);
  return whole ? memory.bytes : std::string();
}

}  // namespace perceiver::testing
