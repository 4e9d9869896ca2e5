#include "distributed/together.h"

#include <algorithm>
#include <exception>
#include <new>

#include "base/check.h"
#include "distributed/shared_error.h"

namespace perceiver {
namespace {

/// How the work of a rank ended: a letter, then the message.
constexpr char kCancelled = 'c', kOther = 'o', kUser = 'u', kFailure = 'f', kShared = 's';

/// Empty if there is no exception.
std::string ending_of(const std::exception_ptr& thrown) {
  if (thrown == nullptr) return "";
  try {
    std::rethrow_exception(thrown);
  } catch (const SharedError& error) {
    return kShared + to_text(error);
  } catch (const Error& error) {
    return (error.kind() == ErrorKind::user ? kUser : kFailure) + std::string(error.what());
  } catch (const std::bad_alloc&) {
    return kFailure + std::string("out of memory");
  } catch (const std::exception& error) {
    return kOther + std::string(error.what());
  } catch (...) {
    return std::string(1, kCancelled);
  }
}

bool is_error(const std::string& ending) {
  return !ending.empty() && ending[0] != kCancelled;
}

/// Throws the error of a rank, with its number unless all have the same.
[[noreturn]] void throw_ending(const std::vector<std::string>& endings, size_t rank) {
  const std::string& ending = endings[rank];
  const std::string message = ending.substr(1);
  if (ending[0] == kShared) throw parse_shared_error(message);
  const ErrorKind kind = ending[0] == kUser ? ErrorKind::user : ErrorKind::failure;
  const bool alike =
      std::all_of(endings.begin(), endings.end(), [&](const std::string& each) { return each == ending; });
  throw SharedError(kind, alike ? message : fmt::format("rank {}: {}", rank, message));
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
  const std::string& own = endings[static_cast<size_t>(world->rank())];
  if (mine != nullptr && (own[0] == kCancelled || own[0] == kOther)) std::rethrow_exception(mine);
  const auto first = std::find_if(endings.begin(), endings.end(), is_error);
  if (first != endings.end()) throw_ending(endings, static_cast<size_t>(first - endings.begin()));
  const auto cancelled = [](const std::string& ending) { return !ending.empty(); };
  if (std::any_of(endings.begin(), endings.end(), cancelled)) throw Cancelled();
}

}  // namespace perceiver
