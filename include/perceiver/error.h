// The one exception type of the library.
#pragma once

#include <stdexcept>
#include <string>

#include "perceiver/export.h"

namespace perceiver {

/// Who can fix an error. The program exits with 2 for `user` and 1 for `failure`.
enum class ErrorKind {
  user,     ///< bad input, configuration, file or request: the caller can fix it
  failure,  ///< the machine, the disk or this library failed
};

/// The only exception the library throws. `what()` is one line: what is wrong, where, and what to do about
/// it.
class PERCEIVER_API Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

}  // namespace perceiver
