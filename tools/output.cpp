#include "tools/output.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>

#include "base/check.h"

namespace perceiver::program {

void print_now(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  flush_output();
}

void flush_output() {
  errno = 0;
  std::cout.flush();
  const bool flushed = std::fflush(stdout) == 0;
  if (flushed && std::ferror(stdout) == 0 && std::cout.good()) return;
  if (errno == EPIPE) throw ReaderGone();
  throw_failure("cannot write to stdout: {}", errno != 0 ? std::strerror(errno) : "an earlier write failed");
}

}  // namespace perceiver::program
