#include "data/text/utf8_stream.h"

#include <utility>

namespace perceiver {
namespace {

constexpr std::string_view replacement = "\xEF\xBF\xBD";

}  // namespace

std::string Utf8Stream::put(uint8_t byte) {
  std::string out;
  take(byte, out);
  return out;
}

std::string Utf8Stream::put(std::string_view bytes) {
  std::string out;
  for (const char c : bytes) take(static_cast<uint8_t>(c), out);
  return out;
}

std::string Utf8Stream::flush() {
  if (state_.whole()) return {};
  state_ = {};
  pending_.clear();
  return std::string(replacement);
}

void Utf8Stream::take(uint8_t byte, std::string& out) {
  const bool interrupted = !state_.whole() && !state_.accepts(byte);
  if (interrupted) out += flush();
  if (!state_.put(byte)) {
    out += replacement;
    return;
  }
  pending_.push_back(static_cast<char>(byte));
  if (state_.whole()) out += std::exchange(pending_, {});
}

}  // namespace perceiver
