// Parts of `perceiver info`.
#pragma once

#include "tools/commands.h"

namespace perceiver::program {

/// Prints the GPUs, CPU threads, libraries and launcher that this process finds. Returns the exit code.
int print_devices(const Globals& globals, bool json);

}  // namespace perceiver::program
