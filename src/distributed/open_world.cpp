// How a process finds its world: by MPI, at an address, or by a file.
#include "base/check.h"
#include "distributed/host_world.h"
#include "distributed/mpi.h"

namespace perceiver {
namespace {

std::vector<std::string> addresses_of(const ProcessPlace& place) {
  if (place.launcher == Launcher::own) return {"127.0.0.1"};
  std::vector<std::string> addresses = own_addresses();
  addresses.push_back(host_name());
  return addresses;
}

MeetingPoint point_at(const ProcessPlace& place, const Listener& listener, const std::string& token) {
  return {.addresses = addresses_of(place), .port = listener.port, .token = token, .boot = boot_id()};
}

std::string listening(const MeetingPoint& point) {
  return fmt::format("at port {} of {} ({})", point.port, host_name(), fmt::join(point.addresses, ", "));
}

Meeting alone(const ProcessPlace& place) {
  Meeting meeting;
  meeting.members.push_back(this_member(place, ""));
  meeting.peers.resize(1);
  place_on_hosts(meeting.members);
  return meeting;
}

Meeting meet_at(const ProcessPlace& place, const HostPort& at, Milliseconds limit) {
  const std::string where = fmt::format("at {}:{}", at.host, at.port);
  const Member self = this_member(place, place.password);
  const MeetingPoint point{.addresses = {at.host}, .port = at.port, .token = place.password, .boot = ""};
  if (place.rank > 0)
    return join_meeting(
        self, [&] { return point; }, limit, where);
  const Listener listener = listen_at(at.port, false);
  return lead_meeting(self, listener, limit,
                      fmt::format("{}; rank 0 listens {}", where, listening(point_at(place, listener, ""))));
}

/// Removes the file when rank 0 has met the others, or gives up.
struct MeetingFile {
  std::filesystem::path path;
  ~MeetingFile() {
    std::error_code ignored;
    std::filesystem::remove(path, ignored);
  }
};

Meeting meet_by_file(const ProcessPlace& place, Milliseconds limit) {
  const std::string where = fmt::format("by the file '{}'", place.meeting);
  if (place.rank > 0)
    return join_meeting(
        this_member(place, ""), [&] { return read_meeting_file(place.meeting); }, limit,
        where + ", which must be the same for all hosts, or --rendezvous another");
  const Listener listener = listen_at(0, place.launcher == Launcher::own);
  const MeetingPoint point = point_at(place, listener, random_token());
  write_meeting_file(place.meeting, point);
  const MeetingFile file{place.meeting};
  return lead_meeting(this_member(place, point.token), listener, limit, listening(point) + ", " + where);
}

/// MPI says who is who and carries rank 0's place, or why there is none.
Meeting meet_by_mpi(const ProcessPlace& place, Milliseconds limit) {
  if (place.rank > 0) {
    const std::string text = mpi::from_leader("");
    const std::optional<MeetingPoint> point = parse_meeting_point(text);
    if (!point) throw parse_shared_error(text);
    return join_meeting(
        this_member(place, ""), [&] { return point; }, limit, "at the address that MPI told");
  }
  Listener listener;
  try {
    listener = listen_at(0, false);
  } catch (const Error& error) {
    const SharedError shared(error.kind(), error.what());
    mpi::from_leader(to_text(shared));
    throw shared;
  }
  const MeetingPoint point = point_at(place, listener, random_token());
  mpi::from_leader(to_text(point));
  return lead_meeting(this_member(place, point.token), listener, limit, listening(point));
}

/// What MPI itself says.
ProcessPlace ask_mpi(ProcessPlace place) {
  mpi::start();
  if (place.size > 0 && mpi::size() != place.size)
    throw_user(
        "the launcher started {} ranks, but MPI knows of {}: it comes from another MPI than this program; "
        "use the "
        "mpirun of the library (or srun --mpi=pmix), or --rendezvous HOST:PORT",
        place.size, mpi::size());
  place.rank = mpi::rank();
  place.size = mpi::size();
  return place;
}

Meeting meet(const ProcessPlace& place, bool by_mpi, Milliseconds limit) {
  if (place.size == 1) return alone(place);
  if (by_mpi) return meet_by_mpi(place, limit);
  if (const std::optional<HostPort> at = host_port(place.meeting)) return meet_at(place, *at, limit);
  return meet_by_file(place, limit);
}

}  // namespace

std::shared_ptr<HostWorld> HostWorld::open(const ProcessPlace& place, HostWorldOptions options) {
  if (place.alone()) return nullptr;
  const bool mpi = place.launcher == Launcher::mpi && mpi::built();
  const bool by_mpi = mpi && (place.meeting.empty() || place.size == 0);
  const ProcessPlace known = by_mpi ? ask_mpi(place) : place;
  Meeting meeting = meet(known, by_mpi, options.start_limit);
  return std::make_shared<HostWorld>(known.rank, std::move(meeting), std::move(options), mpi);
}

}  // namespace perceiver
