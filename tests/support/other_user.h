// Permissions mean nothing to root: a test of them acts as another user.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

namespace perceiver {

/// While it exists, a process of root has the rights of nobody; another user's process stays as it is.
class OtherUser {
 public:
  OtherUser() : was_root_(::geteuid() == 0) {
    if (was_root_) {
      EXPECT_EQ(::seteuid(65534), 0);
    }
  }
  ~OtherUser() {
    if (was_root_) {
      EXPECT_EQ(::seteuid(0), 0);
    }
  }
  OtherUser(const OtherUser&) = delete;
  OtherUser& operator=(const OtherUser&) = delete;

 private:
  bool was_root_;
};

}  // namespace perceiver
