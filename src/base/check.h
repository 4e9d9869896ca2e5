// Throwing perceiver::Error with formatted messages.
#pragma once

#include <fmt/format.h>

#include <utility>

#include "perceiver/error.h"

namespace perceiver {

/// Throws a `user` error: the caller passed something wrong and can fix it.
template <typename... Args>
[[noreturn]] void throw_user(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::user, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws a `failure` error: the machine or this library could not carry out a valid request.
template <typename... Args>
[[noreturn]] void throw_failure(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(ErrorKind::failure, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace perceiver

/// Checks internal consistency: a false condition is a bug in this library, never the user's mistake.
#define PERCEIVER_ASSERT(condition)                                                                \
  do {                                                                                             \
    if (!(condition))                                                                              \
      ::perceiver::throw_failure("internal error: {} does not hold ({}:{})", #condition, __FILE__, \
                                 __LINE__);                                                        \
  } while (false)
