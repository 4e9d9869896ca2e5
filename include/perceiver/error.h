// The one exception type of the library.
#pragma once

#include <stdexcept>
#include <string>

namespace perceiver {

/// Whose mistake an error is; the program exits 2 for `user` and 1 for `failure`.
enum class ErrorKind {
  user,     ///< bad input, configuration, file or request: the caller can mend it
  failure,  ///< the machine, the disk or this library failed
};

/// Thrown by every function of the library. `what()` is one line that says what was wrong, where, and
/// what to do about it.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace perceiver
