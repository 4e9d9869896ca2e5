#include "distributed/rank_watch.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "base/text.h"

namespace perceiver {
namespace {

constexpr size_t kLongestWhat = 200;
constexpr const char* kAdvice = "every rank ends; a longer limit: --collective-timeout";

std::vector<int> those(const std::vector<RankStatus>& states, auto condition) {
  std::vector<int> ranks;
  for (size_t rank = 0; rank < states.size(); ++rank)
    if (condition(states[rank])) ranks.push_back(static_cast<int>(rank));
  return ranks;
}

std::string name(const std::vector<Member>& members, const std::vector<int>& ranks) {
  return ranks.size() == 1 ? name_of(members[ranks[0]]) : names_of(ranks);
}

const char* has(const std::vector<int>& ranks) {
  return ranks.size() == 1 ? "has" : "have";
}
const char* is(const std::vector<int>& ranks) {
  return ranks.size() == 1 ? "is" : "are";
}

/// Why the others wait, as far as the ranks have told.
std::string blame(const std::vector<Member>& members, const std::vector<RankStatus>& states, double silence) {
  const std::vector<int> silent =
      those(states, [&](const RankStatus& each) { return each.silent > silence; });
  if (!silent.empty()) {
    const RankStatus& first = states[silent[0]];
    return fmt::format(
        "{}, last in {}, {} not been heard of for {:.0f} s (stopped, or its host or network is gone?)",
        name(members, silent), first.what, has(silent), first.silent);
  }
  const auto most =
      std::max_element(states.begin(), states.end(),
                       [](const RankStatus& a, const RankStatus& b) { return a.finished < b.finished; });
  std::vector<int> behind =
      those(states, [&](const RankStatus& each) { return each.finished < most->finished; });
  if (behind.empty()) behind = those(states, [](const RankStatus& each) { return each.waited < 0; });
  if (!behind.empty())
    return fmt::format("{} {} behind, {} {}", name(members, behind), is(behind),
                       states[behind[0]].waited < 0 ? "busy since" : "in", states[behind[0]].what);
  return "all ranks wait there: the network between them may be at fault (NCCL_DEBUG=INFO tells more)";
}

}  // namespace

void WatchClock::advance(Time now) {
  if (last_ != Time{}) seconds_ += std::min(1.0, std::chrono::duration<double>(now - last_).count());
  last_ = now;
}

std::string to_text(const RankStatus& status) {
  return fmt::format("{} {:.3f} {:.3f} {}", status.finished, status.waited, status.worked, status.what);
}

RankStatus parse_status(std::string_view text) {
  RankStatus status;
  const char* end = text.data() + text.size();
  const auto finished = std::from_chars(text.data(), end, status.finished);
  if (finished.ptr == end) return status;
  double seconds = 0;
  const auto waited = std::from_chars(finished.ptr + 1, end, seconds);
  if (waited.ptr == end || !std::isfinite(seconds)) return status;
  status.waited = seconds;
  const auto worked = std::from_chars(waited.ptr + 1, end, seconds);
  if (worked.ptr == end || !std::isfinite(seconds)) return status;
  status.worked = seconds;
  status.what = printable(std::string_view(worked.ptr + 1, end)).substr(0, kLongestWhat);
  return status;
}

std::string overdue(const std::vector<Member>& members, const std::vector<RankStatus>& states, double limit,
                    double silence) {
  const auto longest =
      std::max_element(states.begin(), states.end(),
                       [](const RankStatus& a, const RankStatus& b) { return a.waited < b.waited; });
  const bool works = std::any_of(states.begin(), states.end(), [&](const RankStatus& each) {
    return each.waited < 0 && each.worked >= 0 && each.worked <= limit && each.silent <= silence;
  });
  if (longest->waited > limit && !works)
    return fmt::format("rank {} has waited {:.0f} s in {}: {}; {}", longest - states.begin(), longest->waited,
                       longest->what, blame(members, states, silence), kAdvice);
  const bool gone =
      std::any_of(states.begin(), states.end(), [&](const RankStatus& each) { return each.silent > limit; });
  return gone ? fmt::format("{}; {}", blame(members, states, silence), kAdvice) : "";
}

}  // namespace perceiver
