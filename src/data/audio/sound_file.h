// Files in memory for libsndfile.
#pragma once

#include <sndfile.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace perceiver {

/// A file in memory for libsndfile: reads `head` followed by `tail`; with `writes`, reads and writes only
/// `head`.
struct MemoryFile {
  std::string head;
  std::span<const std::byte> tail;
  bool writes = false;
  sf_count_t at = 0;

  sf_count_t size() const { return static_cast<sf_count_t>(head.size() + tail.size()); }
  /// The contiguous bytes from `at` on.
  std::string_view ahead() const {
    const auto place = static_cast<size_t>(at);
    if (place < head.size()) return std::string_view(head).substr(place);
    const std::span<const std::byte> rest = tail.subspan(place - head.size());
    return {reinterpret_cast<const char*>(rest.data()), rest.size()};
  }
};

using SoundFile = std::unique_ptr<SNDFILE, int (*)(SNDFILE*)>;

/// Opens `file` in a mode of libsndfile. Null if that fails, with the `reason` on one line. Thread-safe.
/// `file` must outlive the result.
SoundFile open_sound(MemoryFile& file, int mode, SF_INFO& info, std::string& reason);

}  // namespace perceiver
