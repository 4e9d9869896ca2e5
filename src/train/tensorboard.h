// TensorBoard event files, written by hand: TFRecord framing (https://www.tensorflow.org, "TFRecord": length,
// its masked CRC-32C, data, its masked CRC-32C) around the few fields of the protocol buffers Event and
// Summary that scalars need.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "io/atomic_file.h"

namespace perceiver {

/// CRC-32C (Castagnoli), RFC 3720.
uint32_t crc32c(std::span<const std::byte> bytes);

struct Scalar {
  std::string_view tag;
  double value = 0;
};

/// One process's event file. Every call is one write; errors are `failure`s.
class EventFile {
 public:
  /// Creates events.out.tfevents.<unix time>.<host>.<process> in `folder`, creating that too. Viewers drop
  /// the entries of earlier files in the folder from `first_step` on.
  EventFile(const std::filesystem::path& folder, int64_t first_step);

  void add(int64_t step, std::span<const Scalar> scalars);
  const std::filesystem::path& path() const { return output_.path(); }

 private:
  OutputFile output_;
};

}  // namespace perceiver
