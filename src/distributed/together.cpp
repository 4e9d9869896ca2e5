#include "distributed/together.h"

#include <exception>

#include "base/check.h"

namespace perceiver {
namespace {

/// How the work of a rank ended: a letter, then the message.
constexpr char kCancelled = 'c', kUser = 'u', kFailure = 'f';

/// Empty if there is no exception.
std::string ending_of(const std::exception_ptr& thrown) {
  if (thrown == nullptr) return "";
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    return (error.kind() == ErrorKind::user ? kUser : kFailure) + std::string(error.what());
  } catch (const std::exception& error) {
    return kFailure + std::string(error.what());
  } catch (...) {
    return std::string(1, kCancelled);
  }
}

}  // namespace

void together(World* world, std::string_view what, const std::function<void()>& work) {
  if (world == nullptr) return work();
  std::exception_ptr mine;
  try {
    work();
  } catch (...) {
    mine = std::current_exception();
  }
  const std::vector<std::string> endings = world->gather(ending_of(mine), what);
  if (mine != nullptr) std::rethrow_exception(mine);
  bool cancelled = false;
  for (size_t rank = 0; rank < endings.size(); ++rank) {
    const std::string& ending = endings[rank];
    cancelled = cancelled || !ending.empty();
    if (ending.empty() || ending[0] == kCancelled) continue;
    throw Error(ending[0] == kUser ? ErrorKind::user : ErrorKind::failure,
                fmt::format("rank {}: {}", rank, ending.substr(1)));
  }
  if (cancelled) throw Cancelled();
}

}  // namespace perceiver
