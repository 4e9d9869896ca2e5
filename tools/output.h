// Results on stdout, where a write that fails is an error and not a loss.
#pragma once

#include <stdexcept>
#include <string_view>

namespace perceiver::program {

/// The reader of stdout has gone (`perceiver … | head -1`): the program ends without a word.
struct ReaderGone : std::runtime_error {
  ReaderGone() : std::runtime_error("stdout is a broken pipe") {}
};

/// Writes to stdout at once, after whatever was printed to it before. Throws as `flush_output` does.
void print_now(std::string_view text);

/// Puts what was printed to stdout where it belongs. Throws `failure` if any of it could not be written, or
/// ReaderGone. `reason` is the errno of a write that has failed already, 0 if it is not known.
void flush_output(int reason = 0);

}  // namespace perceiver::program
