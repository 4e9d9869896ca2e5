#include "tools/ranks.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <charconv>
#include <mutex>

#include "base/check.h"
#include "base/plural.h"
#include "base/text.h"
#include "distributed/host_world.h"
#include "distributed/launch.h"
#include "distributed/mpi.h"
#include "tools/log.h"
#include "train/checkpoint_store.h"

namespace perceiver::program {
namespace {

/// Of this process; the world ends with it, or when the command is done.
std::shared_ptr<HostWorld>& the_world() {
  static std::shared_ptr<HostWorld> world;
  return world;
}
bool ends_together = true;        // because the ranks carry out the command together; at first, in doubt
bool tried = false;               // to meet them
std::atomic<int> quiet_code = 0;  // to exit with after end_world_quietly

ProcessPlace place_of(const Globals& globals) {
  return process_place(environment_variables(), mpi::built(), globals.rendezvous);
}

/// The one report of a run's end, which names the rank it is about.
void report_end(const SharedError& error) {
  if (std::string_view(error.what()).empty()) return;
  end_progress();
  name_rank(0);
  spdlog::error("{}", printable(error.what()));
}

/// Of the run that the ranks train; empty: none, or not yet open.
std::filesystem::path run_folder;
std::mutex run_folder_mutex;

/// After a rank has died. Whoever reports it looks what there is: only rank 0 knows what it has saved.
std::string how_to_go_on() {
  const std::lock_guard lock(run_folder_mutex);
  if (run_folder.empty()) return "";
  std::vector<int64_t> saved;
  try {
    saved = CheckpointStore(run_folder / "checkpoints").steps();
  } catch (const std::exception&) {
    return "; continue with --resume";  // which says what is wrong with the folder
  }
  if (saved.empty()) return "; no checkpoint was written yet: start over with --resume";
  return fmt::format("; the checkpoint of step {} is intact: continue with --resume", saved.back());
}

HostWorldOptions options_of(const Globals& globals, const std::atomic<bool>* stop) {
  HostWorldOptions options;
  options.start_limit = std::chrono::seconds(globals.start_timeout);
  options.wait_limit = std::chrono::seconds(globals.collective_timeout);
  options.report = report_end;
  options.exit = [](int code) { _exit(quiet_code != 0 ? quiet_code.load() : code); };
  options.warn = [](const std::string& text) { spdlog::warn("{}", text); };
  options.stop = stop;
  options.after_death = how_to_go_on;
  return options;
}

/// Of --gpus.
int number_of_ranks(const std::string& gpus) {
  const int there = DeviceContext::cuda_devices();
  if (there == 0)
    throw_user("--gpus {}: there is no NVIDIA GPU here, or no driver for it; for ranks on CPUs: mpirun -n N",
               gpus);
  if (gpus == "all") return there;
  int wanted = 0;
  std::from_chars(gpus.data(), gpus.data() + gpus.size(), wanted);
  if (wanted > there)
    throw_user("--gpus {}: there {} {}", gpus, there == 1 ? "is" : "are", counted(there, "GPU"));
  return wanted;
}

std::string check_gpus(const std::string& text) {
  int count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  const bool number = error == std::errc() && end == text.data() + text.size() && count > 0;
  return number || text == "all" ? "" : fmt::format("'{}' is neither a number of GPUs nor 'all'", text);
}

/// Of an error that all ranks have, to rank 0.
void leave_the_report(const Globals& globals, const Error& error) {
  if (place_of(globals).rank > 0) _exit(error.kind() == ErrorKind::user ? 2 : 1);
}

/// The world's thread ends the process.
[[noreturn]] void await_end() {
  for (;;) pause();
}

}  // namespace

void add_rank_options(CLI::App& app, Globals& globals) {
  app.add_option("--gpus", globals.gpus,
                 "Start a process for each of this many GPUs of this host, or for all (train, eval, sample, "
                 "data build)")
      ->check(check_gpus)
      ->type_name("N|all");
  app.add_option(
         "--rendezvous", globals.rendezvous,
         "Where the ranks of several hosts meet: HOST:PORT of rank 0, or a file on a shared file system "
         "(default: what the launcher says)")
      ->type_name("PLACE");
  app.add_option("--start-timeout", globals.start_timeout, "Seconds for all ranks to start")
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("SECONDS")
      ->capture_default_str();
  app.add_option("--collective-timeout", globals.collective_timeout,
                 "Seconds after which a rank that waits for another one ends the run")
      ->check(CLI::Range(1, 1'000'000))
      ->type_name("SECONDS")
      ->capture_default_str();
}

std::shared_ptr<World> open_world(const Globals& globals, const std::atomic<bool>* stop) {
  if (the_world()) return the_world();
  tried = true;
  the_world() = HostWorld::open(place_of(globals), options_of(globals, stop));
  return the_world();
}

void name_run(const std::filesystem::path& folder) {
  const std::lock_guard lock(run_folder_mutex);
  run_folder = folder;
}

World* joined_world() {
  return the_world().get();
}

int threads_of(const Globals& globals) {
  return globals.threads > 0 ? globals.threads : default_threads(joined_world());
}

std::shared_ptr<DeviceContext> open_device(const Globals& globals, const std::string& device) {
  const World* world = joined_world();
  return DeviceContext::open(globals.device.empty() ? device : globals.device, threads_of(globals),
                             world == nullptr ? 0 : world->gpu());
}

Role role_of(const Globals& globals, bool spread) {
  const ProcessPlace place = place_of(globals);
  ends_together = spread;
  name_rank(place.rank);
  if (globals.gpus.empty() || place.launcher == Launcher::own)
    return spread || place.rank == 0 ? Role::work : Role::nothing;
  if (!place.alone())
    throw_usage("--gpus starts the processes itself: leave it out under {}", name_of(place.launcher));
  if (!spread) throw_usage("--gpus: this command does not compute on several GPUs");
  if (globals.device == "cpu") throw_usage("--gpus and --device cpu contradict each other");
  return Role::start;
}

int start_ranks(const Globals& globals, int argc, char** argv) {
  return launch({.program = "/proc/self/exe",
                 .arguments = std::vector<std::string>(argv, argv + argc),
                 .ranks = number_of_ranks(globals.gpus)});
}

void leave_world() {
  if (!the_world()) return;
  the_world()->leave();
  the_world().reset();
}

void end_world(const Globals& globals, const Error& error) {
  const bool shared = dynamic_cast<const SharedError*>(&error) != nullptr;
  if (!the_world() && tried && shared) return leave_the_report(globals, error);
  if (!the_world() && (tried || !ends_together)) return;
  try {
    if (!open_world(globals)) return;
  } catch (const SharedError& other) {
    return leave_the_report(globals, other);
  } catch (const Error&) {
    return;
  }
  the_world()->fail(error);
  await_end();
}

void end_world_quietly(int code) {
  quiet_code = code;
  if (!the_world()) return;
  the_world()->fail(SharedError(ErrorKind::failure, ""));
  await_end();
}

std::shared_ptr<Communicator> context_group(int64_t shards, World* world, DeviceContext& context) {
  if (shards == 1) return nullptr;
  const int ranks = world == nullptr ? 1 : world->size();
  if (ranks % shards != 0)
    throw_usage("--context-shards {} needs as many ranks or a multiple of that; there {} {}", shards,
                ranks == 1 ? "is" : "are", ranks);
  return world->communicator(context, true)->split(world->rank() / static_cast<int>(shards));
}

}  // namespace perceiver::program
