#include "distributed/world.h"

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

void World::agree(const std::string& problem, std::string_view what) {
  const std::vector<std::string> all = gather(problem, what);
  for (size_t rank = 0; rank < all.size(); ++rank)
    if (!all[rank].empty())
      throw SharedError(ErrorKind::failure, fmt::format("rank {}: {}", rank, all[rank]));
}

int default_threads(const World* world) {
  return world == nullptr ? available_processors()
                          : std::max(1, available_processors() / world->local_size());
}

}  // namespace perceiver
