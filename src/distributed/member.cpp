#include "distributed/member.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/text.h"
#include "distributed/sockets.h"
#include "io/json_document.h"
#include "perceiver/version.h"

namespace perceiver {
namespace {

constexpr size_t kNamed = 8;  // ranks of a list that are named

nlohmann::json to_json(const Member& member) {
  return {{"rank", member.rank},
          {"size", member.size},
          {"local_rank", member.local_rank},
          {"local_size", member.local_size},
          {"host", printable(member.host)},
          {"boot", printable(member.boot)},
          {"pid", member.pid},
          {"version", member.version},
          {"commit", member.commit},
          {"token", member.token}};
}

Member from_json(const nlohmann::json& json) {
  Member member;
  json.at("rank").get_to(member.rank);
  json.at("size").get_to(member.size);
  json.at("local_rank").get_to(member.local_rank);
  json.at("local_size").get_to(member.local_size);
  json.at("host").get_to(member.host);
  json.at("boot").get_to(member.boot);
  json.at("pid").get_to(member.pid);
  json.at("version").get_to(member.version);
  json.at("commit").get_to(member.commit);
  json.at("token").get_to(member.token);
  return member;
}

nlohmann::json parse(std::string_view text) {
  return parse_json_document(text, "the message of another rank");
}

template <typename Function>
auto reading(Function function) {
  try {
    return function();
  } catch (const nlohmann::json::exception&) {
    throw_user("the message of another rank is not what this version expects");
  }
}

std::string build_of(const Member& member) {
  return fmt::format("perceiver {} of commit {}", printable(member.version), printable(member.commit));
}

}  // namespace

Member this_member(const ProcessPlace& place, const std::string& token) {
  return {.rank = place.rank,
          .size = place.size,
          .local_rank = place.local_rank,
          .local_size = place.local_size,
          .host = host_name(),
          .boot = boot_id(),
          .pid = getpid(),
          .version = version(),
          .commit = build_commit(),
          .token = token};
}

std::string to_text(const Member& member) {
  return to_json(member).dump();
}

std::string to_text(const std::vector<Member>& members) {
  nlohmann::json all = nlohmann::json::array();
  for (const Member& each : members) all.push_back(to_json(each));
  return all.dump();
}

Member parse_member(std::string_view text) {
  return reading([&] { return from_json(parse(text)); });
}

std::vector<Member> parse_members(std::string_view text) {
  return reading([&] {
    std::vector<Member> members;
    for (const nlohmann::json& each : parse(text)) members.push_back(from_json(each));
    return members;
  });
}

std::string name_of(const Member& member) {
  return fmt::format("rank {} (host {}, pid {})", member.rank, printable(member.host), member.pid);
}

std::string names_of(const std::vector<int>& ranks) {
  if (ranks.size() == 1) return fmt::format("rank {}", ranks[0]);
  const size_t named = ranks.size() > kNamed ? kNamed : ranks.size() - 1;
  std::string text = "ranks ";
  for (size_t i = 0; i < named; ++i) text += fmt::format("{}{}", i == 0 ? "" : ", ", ranks[i]);
  return ranks.size() > kNamed ? fmt::format("{} and {} more", text, ranks.size() - named)
                               : fmt::format("{} and {}", text, ranks.back());
}

std::string mismatch(const Member& leader, const Member& other) {
  if (build_of(leader) != build_of(other))
    return fmt::format("{} is {}, but {} is {}: run the same build everywhere", name_of(leader),
                       build_of(leader), name_of(other), build_of(other));
  if (leader.size != other.size)
    return fmt::format(
        "{} was started as one of {} ranks, but {} as one of {}: start every rank of a run alike",
        name_of(leader), leader.size, name_of(other), other.size);
  if (other.rank < 0 || other.rank >= leader.size)
    return fmt::format("{} is not one of the {} ranks of {}", name_of(other), leader.size, name_of(leader));
  if (other.rank == leader.rank)
    return fmt::format("two processes have the same number, {} and {}: give each its own RANK",
                       name_of(leader), name_of(other));
  return "";
}

void place_on_hosts(std::vector<Member>& members) {
  std::map<std::string, int> count;
  for (Member& each : members) {
    const int before = count[each.host + each.boot]++;
    if (each.local_rank < 0) each.local_rank = before;
  }
  for (Member& each : members)
    if (each.local_size <= 0) each.local_size = count[each.host + each.boot];
}

}  // namespace perceiver
