// Repairs a JPEG that libjpeg would stop reading halfway.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace perceiver {

/// A JPEG without the restart markers in its only scan, which starts at byte `scan` and has no restart
/// intervals: libjpeg takes the first one for the end of the scan and leaves the rest of the picture grey.
/// Empty if there are none.
std::string without_stray_restarts(std::span<const std::byte> file, size_t scan);

}  // namespace perceiver
