// The processes of a run, as the program sees them: joining the others, and ending with them.
#pragma once

#include <atomic>
#include <filesystem>
#include <memory>

#include "distributed/world.h"
#include "perceiver/error.h"
#include "tools/commands.h"

namespace perceiver::program {

/// Adds --gpus, --rendezvous, --start-timeout and --collective-timeout.
void add_rank_options(CLI::App& app, Globals& globals);

/// For a command that the ranks carry out together, before anything else: meets the other ranks. Null for a
/// process that is alone. Later calls return the same. `stop`, if not null, is set by a signal handler and
/// asks all ranks to stop.
std::shared_ptr<World> open_world(const Globals& globals, const std::atomic<bool>* stop = nullptr);

/// The folder of the run that the ranks now train: if one dies, the report says how to go on.
void name_run(const std::filesystem::path& folder);

/// What open_world returned; null before.
World* joined_world();
/// CPU threads for this process: --threads, else its share of the host's processors.
int threads_of(const Globals& globals);
/// The device of --device, or `device` without it: of a rank, its own GPU.
std::shared_ptr<DeviceContext> open_device(const Globals& globals, const std::string& device = "auto");

/// The ranks that share contexts with this one, in groups of `shards` (--context-shards); null: each rank has
/// its own. Collective. Throws UsageError if the ranks do not divide so.
std::shared_ptr<Communicator> context_group(int64_t shards, World* world, DeviceContext& context);

/// What to do with the command line of this process.
enum class Role {
  work,     ///< carry out the command: alone, or as one of the ranks
  start,    ///< start the ranks: --gpus
  nothing,  ///< a rank other than 0 of a command that rank 0 carries out alone
};
/// `spread`: whether the ranks carry out the command together. Ranks other than 0 say only what goes wrong.
Role role_of(const Globals& globals, bool spread);
/// For Role::start: runs the command line of this process on each GPU. Returns the exit code.
int start_ranks(const Globals& globals, int argc, char** argv);

/// After the command: waits for the other ranks.
void leave_world();
/// Ends every rank with one report of the error; does not return. Returns if this process is alone, or could
/// not meet the others: then it reports for itself, unless rank 0 does.
void end_world(const Globals& globals, const Error& error);
/// The same without a report, where nobody wants to read any more; this process ends with `code`.
void end_world_quietly(int code);

}  // namespace perceiver::program
