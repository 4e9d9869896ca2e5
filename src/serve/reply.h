// What a request is answered with: at once, or bit by bit.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>

namespace perceiver::serve {

/// Used by one thread.
class ReplyStream {
 public:
  virtual ~ReplyStream() = default;
  /// Appends what is to be sent now, if anything, having waited for it a fraction of a second. False once
  /// nothing will follow.
  virtual bool next(std::string& out) = 0;
};

struct Reply {
  std::string type, body;               ///< if there is no stream
  std::unique_ptr<ReplyStream> stream;  ///< of server-sent events
  std::string file_name;                ///< for a browser that saves it; may be empty
};

/// JSON as bytes; text that is not UTF-8 is repaired.
inline std::string to_text(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}
inline Reply json_reply(const nlohmann::ordered_json& json) {
  return {"application/json", to_text(json), nullptr, {}};
}
inline std::string event_text(const nlohmann::ordered_json& json) {
  return "data: " + to_text(json) + "\n\n";
}

}  // namespace perceiver::serve
