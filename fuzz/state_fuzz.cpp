// Any text is either refused with a perceiver::Error or is the state of a checkpoint that is identical when
// written again.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "perceiver/error.h"
#include "train/checkpoint_state.h"

namespace {

void require(bool condition) {
  if (!condition) std::abort();
}

/// Errors must fit on one line of a terminal.
void check_message(std::string_view message) {
  for (const char c : message) require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F);
}

void check_reread(std::string_view text) {
  const perceiver::ParsedState parsed = perceiver::state_from_json(text, "fuzz");
  const std::string written = perceiver::state_to_json(parsed.state, parsed.files);
  const perceiver::ParsedState again = perceiver::state_from_json(written, "reread");
  require(perceiver::state_to_json(again.state, again.files) == written);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    check_reread({reinterpret_cast<const char*>(data), size});
  } catch (const perceiver::Error& error) {
    check_message(error.what());
  }
  return 0;
}
