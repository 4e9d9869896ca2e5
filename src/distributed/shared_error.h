// An error that every rank of a run has.
#pragma once

#include <string>
#include <string_view>

#include "perceiver/error.h"

namespace perceiver {

/// Thrown by every rank with the same message; only one needs to report it.
struct SharedError : Error {
  using Error::Error;
};

/// As it travels from rank to rank: the kind, then the message.
inline std::string to_text(const SharedError& error) {
  return (error.kind() == ErrorKind::user ? "u" : "f") + std::string(error.what());
}
inline SharedError parse_shared_error(std::string_view text) {
  const ErrorKind kind = text.starts_with('u') ? ErrorKind::user : ErrorKind::failure;
  return {kind, std::string(text.substr(text.empty() ? 0 : 1))};
}

}  // namespace perceiver
