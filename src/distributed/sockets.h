// TCP between the processes of a run: listening, connecting with a time limit, and the addresses of this
// host.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "io/file_descriptor.h"

namespace perceiver {

using Milliseconds = std::chrono::milliseconds;

struct Listener {
  FileDescriptor socket;  ///< non-blocking
  int port = 0;
};

/// Listens for IPv4 and, where there is any, IPv6; `port` 0: any free one. `loopback`: only for processes of
/// this host. Throws `failure` if the port is taken.
Listener listen_at(int port, bool loopback);

/// The next connection that waits at `listener`, non-blocking; invalid if there is none.
FileDescriptor accept_from(const Listener& listener);

struct Attempt {
  FileDescriptor socket;  ///< non-blocking; invalid: `problem` says why
  std::string problem;    ///< "10.0.0.1: Connection refused"
};

/// Connects to one of the addresses of `host` (a name or an address), each within `limit`.
Attempt connect_to(const std::string& host, int port, Milliseconds limit);

/// IP addresses at which other hosts may reach this one: those of its interfaces but loopback and link-local
/// ones.
std::vector<std::string> own_addresses();

/// The same for all processes of one running kernel, and different for others; empty if unknown.
std::string boot_id();
std::string host_name();

/// Waits until `socket` has something to read, no longer than `limit`.
bool wait_readable(int socket, Milliseconds limit);

}  // namespace perceiver
