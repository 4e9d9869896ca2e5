// How the processes of a run find each other: rank 0 listens, the others connect to it and say who they are.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "distributed/connection.h"
#include "distributed/member.h"
#include "distributed/sockets.h"

namespace perceiver {

/// Where rank 0 listens. The token keeps out processes of other runs, and shows that this is not what an
/// earlier run left.
struct MeetingPoint {
  std::vector<std::string> addresses;  ///< names or IP addresses
  int port = 0;
  std::string token;
  std::string boot;  ///< of rank 0's host: processes there use the loopback interface
};

std::string to_text(const MeetingPoint& point);
/// None for text that is no meeting point, e.g. of a file that is not complete.
std::optional<MeetingPoint> parse_meeting_point(const std::string& text);

std::string random_token();

/// The ranks that have met, and the connections of this one: rank 0 has one to each rank, by number; the
/// others have one, at index 0.
struct Meeting {
  std::vector<Member> members;
  std::vector<std::unique_ptr<Connection>> peers;
};

/// Rank 0: waits for all ranks. Throws SharedError, which the ranks that are there throw too, if one does not
/// suit or does not come within `limit`; `place_text` says where it was to come.
Meeting lead_meeting(const Member& self, const Listener& listener, Milliseconds limit,
                     const std::string& place_text);

/// Another rank: connects to where `find` says, which is asked again as long as nobody there knows the token.
/// Throws `failure` if that does not succeed within `limit`, or SharedError when rank 0 does.
Meeting join_meeting(Member self, const std::function<std::optional<MeetingPoint>()>& find,
                     Milliseconds limit, const std::string& place_text);

/// Writes the file by which other hosts find rank 0, readable by this user alone.
void write_meeting_file(const std::filesystem::path& file, const MeetingPoint& point);
/// None if there is no such file, or it is not complete.
std::optional<MeetingPoint> read_meeting_file(const std::filesystem::path& file);

}  // namespace perceiver
