#include "tools/next_steps.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <string_view>

namespace perceiver::program {
namespace {

constexpr std::string_view kPlain =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";

/// Options of `sample` that suit a modality; none for one that cannot be sampled to a file of its own.
std::vector<std::string> sampling_options(const std::string& modality) {
  static const std::map<std::string, std::vector<std::string>> options{
      {"text", {"--prompt", "Once upon a time", "--tokens", "500"}},
      {"image", {"--count", "16", "--out", "samples.png"}},
      {"music", {"--tokens", "1000", "--out", "sample.mid"}},
      {"audio", {"--out", "sample.wav"}}};
  const auto found = options.find(modality);
  return found != options.end() ? found->second : std::vector<std::string>{};
}

}  // namespace

std::string shell_quote(const std::string& word) {
  if (!word.empty() && word.find_first_not_of(kPlain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string shell_command(const std::vector<std::string>& words) {
  std::string command;
  for (const std::string& word : words) command += (command.empty() ? "" : " ") + shell_quote(word);
  return command;
}

std::vector<std::string> own_command_line() {
  std::vector<std::string> words;
  std::ifstream input("/proc/self/cmdline", std::ios::binary);
  for (std::string word; std::getline(input, word, '\0');) words.push_back(word);
  return words.empty() ? std::vector<std::string>{"perceiver"} : words;
}

std::vector<std::string> commands_for_model(const std::string& program, const std::string& run,
                                            const std::string& modality, bool validates) {
  std::vector<std::string> commands;
  if (std::vector<std::string> options = sampling_options(modality); !options.empty()) {
    options.insert(options.begin(), {program, "sample", "--checkpoint", run});
    commands.push_back(shell_command(options));
  }
  if (validates)
    commands.push_back(shell_command({program, "eval", "--checkpoint", run, "--split", "validation"}));
  return commands;
}

std::string resume_command(std::vector<std::string> started) {
  if (std::find(started.begin(), started.end(), "--resume") == started.end()) started.push_back("--resume");
  return shell_command(started);
}

}  // namespace perceiver::program
