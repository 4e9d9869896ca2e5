// What a process tells the others when they meet, and whether they suit each other.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "distributed/process_place.h"

namespace perceiver {

struct Member {
  int rank = 0, size = 1, local_rank = -1, local_size = 0;
  std::string host, boot;  ///< name; id of the running kernel
  int pid = 0;
  std::string version, commit;  ///< of the build
  std::string token;            ///< of the meeting
};

/// This process.
Member this_member(const ProcessPlace& place, const std::string& token);

std::string to_text(const Member& member);
std::string to_text(const std::vector<Member>& members);
/// From a process that is not trusted yet: throws `user` for anything but to_text's.
Member parse_member(std::string_view text);
std::vector<Member> parse_members(std::string_view text);

/// "rank 2 (host a, pid 12)"
std::string name_of(const Member& member);
/// "rank 2", "ranks 1, 3 and 5", "ranks 1, 2, 3, 4 and 12 more"
std::string names_of(const std::vector<int>& ranks);

/// Why `other` cannot be of the run that rank 0 started, in one line; empty if it can.
std::string mismatch(const Member& leader, const Member& other);
/// Fills in what launchers left open: the place of each rank among those of its host.
void place_on_hosts(std::vector<Member>& members);

}  // namespace perceiver
