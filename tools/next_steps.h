// Commands to copy, at the end of a training run.
#pragma once

#include <algorithm>
#include <fstream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver::program {

/// The word as a POSIX shell takes it: in single quotes if it needs them.
inline std::string shell_quote(const std::string& word) {
  constexpr std::string_view plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

/// All words, quoted where needed, separated by spaces.
inline std::string shell_command(const std::vector<std::string>& words) {
  std::string command;
  for (const std::string& word : words) command += (command.empty() ? "" : " ") + shell_quote(word);
  return command;
}

/// How the program was started, from the system; {"perceiver"} where that is unknown.
inline std::vector<std::string> own_command_line() {
  std::vector<std::string> words;
  std::ifstream input("/proc/self/cmdline", std::ios::binary);
  for (std::string word; std::getline(input, word, '\0');) words.push_back(word);
  return words.empty() ? std::vector<std::string>{"perceiver"} : words;
}

/// Options of `sample` that suit a modality; none for one that it does not make.
inline std::vector<std::string> sampling_options(const std::string& modality) {
  static const std::map<std::string, std::vector<std::string>> options{
      {"text", {"--prompt", "Once upon a time", "--tokens", "500"}},
      {"image", {"--count", "16", "--out", "samples.png"}},
      {"music", {"--tokens", "1000", "--out", "sample.mid"}},
      {"audio", {"--out", "sample.wav"}}};
  const auto found = options.find(modality);
  return found != options.end() ? found->second : std::vector<std::string>{};
}

/// What to do with the model in a run folder: generate what its modality is, and evaluate it if there is data
/// for that. `program` is how the program was called.
inline std::vector<std::string> commands_for_model(const std::string& program, const std::string& run,
                                                   const std::string& modality, bool validates) {
  std::vector<std::string> commands;
  std::vector<std::string> sample{program, "sample", "--checkpoint", run};
  for (const std::string& option : sampling_options(modality)) sample.push_back(option);
  if (sample.size() > 4) commands.push_back(shell_command(sample));
  if (validates)
    commands.push_back(shell_command({program, "eval", "--checkpoint", run, "--split", "validation"}));
  return commands;
}

/// The command that continues the run that `started` started.
inline std::string resume_command(std::vector<std::string> started) {
  if (std::find(started.begin(), started.end(), "--resume") == started.end()) started.push_back("--resume");
  return shell_command(started);
}

}  // namespace perceiver::program
