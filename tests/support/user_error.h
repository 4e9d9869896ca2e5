// The one-line message that a user sees.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "perceiver/error.h"

namespace perceiver {

/// The message of the user error that `action` throws; a test failure if it throws none.
template <typename Action>
std::string message_of(Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::user) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

}  // namespace perceiver
