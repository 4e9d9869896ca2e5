#include "base/processors.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <thread>

namespace perceiver {
namespace {

constexpr double kUnlimited = std::numeric_limits<double>::infinity();

double share(double quota, double period) {
  return quota > 0 && period > 0 ? quota / period : kUnlimited;
}

/// cpu.max holds "QUOTA PERIOD" in microseconds, or "max PERIOD".
double version2_limit(const std::string& folder) {
  double quota = 0, period = 0;
  std::ifstream file(folder + "/cpu.max");
  return file >> quota >> period ? share(quota, period) : kUnlimited;
}

double version1_limit(const std::string& folder) {
  double quota = 0, period = 0;  // a quota of -1 is none
  std::ifstream quota_file(folder + "/cpu.cfs_quota_us"), period_file(folder + "/cpu.cfs_period_us");
  return quota_file >> quota && period_file >> period ? share(quota, period) : kUnlimited;
}

/// The smallest limit of the group and the groups above it. Inside a container the path may be that of the
/// host: folders that do not exist have no limit, and the mount's own folder is the container's group.
template <typename Limit>
double smallest(const std::string& mount, std::string group, Limit limit) {
  double least = limit(mount);
  while (group.size() > 1) {
    least = std::min(least, limit(mount + group));
    group.resize(group.rfind('/'));
  }
  return least;
}

bool lists_cpu(std::string_view controllers) {
  std::istringstream list{std::string(controllers)};
  for (std::string name; std::getline(list, name, ',');)
    if (name == "cpu") return true;
  return false;
}

int affinity_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));  // more than 1024 processors
}

}  // namespace

double cgroup_processors(const std::string& root, std::string_view groups) {
  double least = kUnlimited;
  std::istringstream lines{std::string(groups)};
  for (std::string line; std::getline(lines, line);) {  // number:controllers:/group
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1),
                      group = line.substr(second + 1);
    if (!group.starts_with('/')) continue;
    if (controllers.empty()) least = std::min(least, smallest(root, group, version2_limit));
    if (!lists_cpu(controllers)) continue;
    for (const std::string& mount : {root + "/cpu", root + "/cpu,cpuacct"})
      least = std::min(least, smallest(mount, group, version1_limit));
  }
  return least;
}

int available_processors() {
  std::ifstream file("/proc/self/cgroup");
  const std::string groups{std::istreambuf_iterator<char>(file), {}};
  const double quota = std::ceil(cgroup_processors("/sys/fs/cgroup", groups));
  return static_cast<int>(std::clamp<double>(quota, 1, affinity_processors()));
}

}  // namespace perceiver
