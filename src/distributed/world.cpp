#include "distributed/world.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>

#include "base/check.h"
#include "base/processors.h"
#include "distributed/shared_error.h"

namespace perceiver {

bool World::any(bool mine, std::string_view what) {
  bool found = false;
  for (const std::string& each : gather(mine ? "1" : "0", what)) found = found || each == "1";
  return found;
}

std::string World::from_leader(const std::string& text, std::string_view what) {
  return gather(leads() ? text : std::string(), what).front();
}

void World::require_same(const std::string& mine, std::string_view what) {
  const std::vector<std::string> all = gather(mine, what);
  for (size_t rank = 1; rank < all.size(); ++rank)
    if (all[rank] != all[0])
      throw SharedError(
          ErrorKind::user,
          fmt::format("the ranks differ in {}: rank 0 has {}, rank {} has {}; start every rank the same way",
                      what, all[0], rank, all[rank]));
}

int share_of_processors(int affine, int available, int configured, int ranks) {
  const bool bound = affine * ranks <= configured && available == affine;
  return bound ? affine : std::max(1, available / ranks);
}

int default_threads(const World* world) {
  const int available = available_processors();
  if (world == nullptr) return available;
  cpu_set_t set;
  const int affine = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : available;
  return share_of_processors(affine, available, static_cast<int>(sysconf(_SC_NPROCESSORS_CONF)),
                             world->local_size());
}

}  // namespace perceiver
