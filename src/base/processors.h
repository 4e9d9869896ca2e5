// How many processors this process may use.
#pragma once

#include <string>
#include <string_view>

namespace perceiver {

/// Processors that the process can keep busy, at least 1: those of its affinity mask, and no more than its
/// control group's CPU quota, rounded up (a container with 1.5 CPUs gets 2 threads, not one per core of the
/// host).
int available_processors();

/// The quota of control groups as a number of processors; infinity if there is none. `root` is where the
/// file system of control groups is mounted, `groups` the content of /proc/self/cgroup. Reads cpu.max
/// (version 2) or cpu.cfs_quota_us (version 1) of the process's group and of every group above it; the
/// smallest counts.
double cgroup_processors(const std::string& root, std::string_view groups);

}  // namespace perceiver
