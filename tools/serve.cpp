// perceiver serve: models behind pages and an HTTP interface.
#include <pthread.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <filesystem>
#include <thread>

#include "base/text.h"
#include "serve/access.h"
#include "serve/server.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/output.h"
#include "tools/ranks.h"
#include "tools/validators.h"

namespace perceiver::program {
namespace {

struct ServeCommand {
  std::vector<std::string> models;
  serve::ServerOptions server;
  serve::SchedulerOptions scheduler;
  Weights weights = Weights::automatic;
};

/// From here on signals that end the program wait for `sigwait`: no thread takes them.
sigset_t hold_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

struct NamedModel {
  std::string name, path;
};

/// "NAME=PATH", or a path, whose last part is the name.
NamedModel named_model(const std::string& argument) {
  const size_t equals = argument.find('=');
  std::error_code ignored;
  if (equals != std::string::npos && equals > 0 && !std::filesystem::exists(argument, ignored))
    return {argument.substr(0, equals), argument.substr(equals + 1)};
  const std::filesystem::path path = std::filesystem::path(argument).lexically_normal();
  std::string name = path.has_filename() ? path.stem().string() : path.parent_path().stem().string();
  if (name == "model") name = std::filesystem::absolute(path).parent_path().filename().string();
  return {name, argument};
}

serve::ServedModels open_models(const ServeCommand& options, const Globals& globals) {
  serve::ServedModels models;
  for (const std::string& argument : options.models) {
    const NamedModel named = named_model(argument);
    for (const auto& other : models)
      if (other->name == named.name)
        throw_usage("two models would be called {}; name one, as in OTHER={}", quote(named.name), named.path);
    Model model =
        Model::load(find_checkpoint(named.path), {.device = globals.device.empty() ? "auto" : globals.device,
                                                  .threads = threads_of(globals),
                                                  .weights = options.weights,
                                                  .verify = globals.verify});
    models.push_back(std::make_unique<serve::ServedModel>(named.name, std::move(model), options.scheduler));
    const serve::ServedModel& served = *models.back();
    spdlog::info("{}: a model of {}, {} parameters, on {}", printable(served.name), served.data().modality,
                 served.model.info().parameters, served.model.info().device);
  }
  return models;
}

std::string address_of(const ServeCommand& options, int port) {
  const std::string& host = options.server.host;
  const std::string name = host.find(':') == std::string::npos ? host : "[" + host + "]";
  const std::string token = options.server.token.empty() ? "" : "?token=" + options.server.token;
  return fmt::format("http://{}:{}/{}", name, port, token);
}

int run(const ServeCommand& options, const Globals& globals) {
  if (options.models.empty() && options.server.runs.empty())
    throw_usage("nothing to serve: name a model, or a folder of training runs with --runs");
  (void)serve::Access(options.server.host, options.server.token);  // before models are loaded
  const sigset_t signals = hold_signals();
  serve::Server server(open_models(options, globals), options.server);
  print_now(address_of(options, server.port()) + "\n");
  spdlog::info("Ctrl-C ends the server");
  std::thread answering([&] { server.run(); });
  int signal = 0;
  sigwait(&signals, &signal);
  server.stop();
  answering.join();
  return 0;
}

void add_limits(CLI::App& command, ServeCommand& options) {
  serve::Limits& limits = options.server.limits;
  command.add_option("--slots", options.scheduler.slots, "Sequences of each model that grow at once")
      ->check(at_least(1))
      ->capture_default_str();
  command
      .add_option("--queue", options.scheduler.queue, "Sequences that may wait for a slot; more are refused")
      ->check(at_least(0))
      ->capture_default_str();
  command.add_option("--max-tokens", limits.max_tokens, "Most new tokens of a sequence")
      ->check(at_least(1))
      ->capture_default_str();
  command
      .add_option("--max-prompt", limits.prompt_tokens,
                  "Most tokens of a prompt (0 = the model's context, at least 65536)")
      ->check(at_least(0))
      ->capture_default_str();
  command.add_option("--max-seconds", limits.seconds, "Most seconds of a request")
      ->check(at_least(1))
      ->capture_default_str();
}

}  // namespace

void add_serve(CLI::App& app, Globals& globals, Action& action) {
  auto options = std::make_shared<ServeCommand>();
  CLI::App* command = app.add_subcommand(
      "serve", "Serve models and show training runs: pages for the browser, an HTTP interface");
  command
      ->add_option(
          "model,--model", options->models,
          "Run folder, checkpoint folder, model file or a model's name (perceiver models), or NAME=PATH "
          "(repeatable)")
      ->type_name(kModel);
  command
      ->add_option("--runs", options->server.runs,
                   "Folder of training runs to show, with and without models; they may still be training")
      ->type_name(kPath);
  command
      ->add_option("--host", options->server.host,
                   "Address to listen at; others than this machine need --token")
      ->capture_default_str();
  command->add_option("--port", options->server.port, "Port to listen at (0 = any that is free)")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command->add_option("--token", options->server.token, "Text that clients must know")->type_name("TEXT");
  add_limits(*command, *options);
  add_weights(*command, options->weights);
  add_kv_cache(*command, options->scheduler.kv_cache);
  command->footer(R"text(Examples:
  perceiver serve runs/book
  perceiver serve runs/book bach=runs/chorales --port 9000 --slots 16
  perceiver serve --runs runs
  perceiver serve runs/book --host 0.0.0.0 --token "$(openssl rand -hex 16)")text");
  command->callback(
      [options, &globals, &action] { action = [options, &globals] { return run(*options, globals); }; });
}

}  // namespace perceiver::program
