// perceiver report: a page about training runs; perceiver runs: which there are.
#include <cstdio>
#include <filesystem>

#include "base/plural.h"
#include "base/text.h"
#include "config/schema.h"
#include "io/atomic_file.h"
#include "report/report_page.h"
#include "report/run_record.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/validators.h"

namespace perceiver::program {
namespace {

/// "1.2345 nats at step 1200", with the bits per unit where there is one.
std::string best_text(const RunRecord& run) {
  const nlohmann::ordered_json* best = run.best_validation();
  if (best == nullptr) return "no validation yet";
  std::string text = fmt::format("{:.4f} nats", (*best)["validation_loss"].get<double>());
  constexpr std::string_view prefix = "validation_bits_per_";
  for (const auto& [key, value] : best->items())
    if (key.starts_with(prefix) && value.is_number())
      text += fmt::format(", {:.4f} bits per {}", value.get<double>(), key.substr(prefix.size()));
  return text + fmt::format(" at step {}", (*best)["step"].get<int64_t>());
}

std::string steps_text(const RunRecord& run) {
  return run.config && run.config->planned_steps() > 0
             ? fmt::format("{}/{}", run.step, run.config->planned_steps())
             : fmt::format("{}", run.step);
}

int list_runs(const std::string& folder) {
  const std::vector<std::filesystem::path> folders = find_runs(folder);
  if (folders.empty()) {
    std::printf("no runs in %s\n", printable(folder).c_str());
    return 0;
  }
  size_t longest = 0;
  for (const auto& each : folders) longest = std::max(longest, printable(each.string()).size());
  for (const auto& each : folders) {
    const RunRecord run = read_run(each);
    fmt::print("{:<{}}  {:<8}  step {:<15}  {}\n", printable(each.string()), longest, name_of(run.state),
               steps_text(run), best_text(run));
  }
  return 0;
}

int write_report(const std::vector<std::string>& folders, const std::string& out) {
  std::vector<RunRecord> runs;
  for (const std::string& folder : folders) runs.push_back(read_run(folder));
  write_file_atomically(out, report_page(runs));
  std::printf("%s: %s; open it in a browser\n", printable(out).c_str(),
              counted(static_cast<int64_t>(runs.size()), "run").c_str());
  return 0;
}

}  // namespace

void add_report(CLI::App& app, Globals&, Action& action) {
  struct Options {
    std::vector<std::string> runs;
    std::string out = "report.html";
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("report", "Write a page about training runs: curves, samples, settings");
  command->add_option("runs", options->runs, "Folders of runs, finished or not")
      ->type_name(kPath)
      ->required();
  command->add_option("--out", options->out, "HTML file to write; it needs nothing else")
      ->type_name(kPath)
      ->capture_default_str();
  command->footer(R"(Examples:
  perceiver report runs/quickstart
  perceiver report runs/small runs/large --out comparison.html)");
  command->callback(
      [options, &action] { action = [options] { return write_report(options->runs, options->out); }; });
}

void add_runs(CLI::App& app, Globals&, Action& action) {
  auto folder = std::make_shared<std::string>("runs");
  CLI::App* command = app.add_subcommand("runs", "List the training runs in a folder");
  command->add_option("folder", *folder, "Folder to look in, up to three levels deep")
      ->type_name(kPath)
      ->capture_default_str();
  command->footer(R"(Examples:
  perceiver runs
  perceiver runs experiments/books)");
  command->callback([folder, &action] { action = [folder] { return list_runs(*folder); }; });
}

}  // namespace perceiver::program
