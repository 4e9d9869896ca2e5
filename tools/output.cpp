#include "tools/output.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>

#include "base/check.h"

namespace perceiver::program {

namespace {

/// For a write that failed some time ago.
bool reader_has_gone() {
  pollfd output{.fd = STDOUT_FILENO, .events = POLLOUT, .revents = 0};
  return ::poll(&output, 1, 0) == 1 && (output.revents & POLLERR) != 0;
}

}  // namespace

void print_now(std::string_view text) {
  errno = 0;
  std::fwrite(text.data(), 1, text.size(), stdout);
  const int reason = std::ferror(stdout) != 0 ? errno : 0;
  flush_output(reason);
}

void flush_output(int reason) {
  errno = reason;
  std::cout.flush();
  const bool flushed = std::fflush(stdout) == 0;
  if (flushed && std::ferror(stdout) == 0 && std::cout.good()) return;
  if (errno == EPIPE || reader_has_gone()) throw ReaderGone();
  throw_failure("cannot write to stdout: {}", errno != 0 ? std::strerror(errno) : "an earlier write failed");
}

}  // namespace perceiver::program
