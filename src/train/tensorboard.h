// TensorBoard event files, written by hand: TFRecord framing (https://www.tensorflow.org, "TFRecord": length,
// masked CRC-32C of it, data, masked CRC-32C of that) around the few fields of the protocol buffers Event and
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

/// CRC-32C (Castagnoli), as of RFC 3720.
uint32_t crc32c(std::span<const std::byte> bytes);

struct Scalar {
  std::string_view tag;
  double value = 0;
};

/// An event file of one process. Every call is one write; errors are `failure`s.
class EventFile {
 public:
  /// Creates events.out.tfevents.<unix time>.<host>.<process> in `folder`, which is created. Viewers drop
  /// what earlier files of the folder hold of `first_step` and later.
  EventFile(const std::filesystem::path& folder, int64_t first_step);

  void add(int64_t step, std::span<const Scalar> scalars);
  const std::filesystem::path& path() const { return output_.path(); }

 private:
  OutputFile output_;
};

}  // namespace perceiver
