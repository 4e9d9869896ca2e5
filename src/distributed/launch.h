// Starts the ranks of a run on this host: --gpus N.
#pragma once

#include <string>
#include <vector>

#include "distributed/sockets.h"

namespace perceiver {

struct LaunchOptions {
  std::string program;                 ///< file to execute
  std::vector<std::string> arguments;  ///< with the name of the program
  int ranks = 1;
  Milliseconds grace{5'000};  ///< for the others to end by themselves after one has failed
};

/// Starts `ranks` processes, which learn their place from variables (process_place.h), hands on SIGINT,
/// SIGTERM, SIGHUP, SIGTSTP and SIGCONT to each, and waits for all. They die with this process. Returns the
/// code of the first that failed (128 + signal for one that was killed), else 0. Leaves these signals
/// blocked.
int launch(const LaunchOptions& options);

}  // namespace perceiver
