#include "data/audio/sound_file.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <shared_mutex>

#include "base/text.h"

namespace perceiver {
namespace {

sf_count_t memory_size(void* user) {
  return static_cast<MemoryFile*>(user)->size();
}

sf_count_t memory_seek(sf_count_t offset, int whence, void* user) {
  auto& file = *static_cast<MemoryFile*>(user);
  const sf_count_t base = whence == SEEK_SET ? 0 : whence == SEEK_CUR ? file.at : file.size();
  sf_count_t target = 0;
  if (__builtin_add_overflow(base, offset, &target)) return -1;
  // Seeking past the end works as in any file: libsndfile ignores seek errors and would read on at the old
  // place.
  if (target < 0) return -1;
  return file.at = target;
}

sf_count_t memory_read(void* out, sf_count_t count, void* user) {
  auto& file = *static_cast<MemoryFile*>(user);
  const sf_count_t have = std::clamp<sf_count_t>(file.size() - file.at, 0, std::max<sf_count_t>(count, 0));
  for (sf_count_t done = 0; done < have;) {
    const std::string_view piece = file.ahead().substr(0, static_cast<size_t>(have - done));
    std::memcpy(static_cast<char*>(out) + done, piece.data(), piece.size());
    done += static_cast<sf_count_t>(piece.size());
    file.at += static_cast<sf_count_t>(piece.size());
  }
  return have;
}

sf_count_t memory_write(const void* from, sf_count_t count, void* user) {
  auto& file = *static_cast<MemoryFile*>(user);
  if (!file.writes || count <= 0) return 0;
  if (file.at + count > file.size()) file.head.resize(static_cast<size_t>(file.at + count));
  std::memcpy(file.head.data() + file.at, from, static_cast<size_t>(count));
  file.at += count;
  return count;
}

sf_count_t memory_tell(void* user) {
  return static_cast<MemoryFile*>(user)->at;
}

SoundFile open_once(MemoryFile& file, int mode, SF_INFO& info) {
  static SF_VIRTUAL_IO io{.get_filelen = memory_size,
                          .seek = memory_seek,
                          .read = memory_read,
                          .write = memory_write,
                          .tell = memory_tell};
  file.at = 0;
  return {sf_open_virtual(&io, mode, &info, &file), sf_close};
}

}  // namespace

/// libsndfile keeps the reason in a global variable, which every thread that opens a file overwrites: after a
/// failure the file is therefore opened again alone.
SoundFile open_sound(MemoryFile& file, int mode, SF_INFO& info, std::string& reason) {
  static std::shared_mutex opening;
  const SF_INFO wanted = info;
  {
    const std::shared_lock with_others(opening);
    if (SoundFile sound = open_once(file, mode, info)) return sound;
  }
  const std::unique_lock alone(opening);
  info = wanted;
  SoundFile sound = open_once(file, mode, info);
  if (sound == nullptr) reason = printable(sf_strerror(nullptr));
  return sound;
}

}  // namespace perceiver
