// perceiver help: the same as --help, for any subcommand; the manual page.
#include "base/check.h"
#include "tools/command_line.h"
#include "tools/commands.h"
#include "tools/describe.h"
#include "tools/output.h"
#include "tools/validators.h"

namespace perceiver::program {

void add_help(CLI::App& app, Globals&, Action& action) {
  struct Options {
    std::vector<std::string> words;
    bool man = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("help", "Explain a command");
  command->add_option("command", options->words, "Command, e.g. sample or data build (default: all in short)")
      ->type_name("COMMAND");
  command->add_flag("--man", options->man, "Print the manual page of the whole program (roff)");
  command->footer(R"(Examples:
  perceiver help sample
  perceiver help data build
  perceiver help --man | man -l -)");
  command->callback([options, &app, &action] {
    action = [options, &app] {
      if (options->man && !options->words.empty())
        throw_usage("--man is the page of all commands; name none");
      const std::string text = options->man ? man_page(app) : help_text(find_command(app, options->words));
      print_now(text);
      return 0;
    };
  });
}

void add_completion(CLI::App& app, Globals&, Action& action) {
  auto shell = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("completion", "Print a script that completes the program's words");
  command->add_option("shell", *shell, "Shell that will read it")
      ->required()
      ->check(one_of({"bash", "zsh", "fish"}));
  command->footer(R"(Examples:
  source <(perceiver completion bash)                                       # in this shell
  perceiver completion bash > ~/.local/share/bash-completion/completions/perceiver
  perceiver completion zsh > ~/.zfunc/_perceiver                            # with ~/.zfunc in fpath
  perceiver completion fish > ~/.config/fish/completions/perceiver.fish)");
  command->callback([shell, &app, &action] {
    action = [shell, &app] {
      const std::string text = *shell == "bash"  ? bash_completion(app)
                               : *shell == "zsh" ? zsh_completion(app)
                                                 : fish_completion(app);
      print_now(text);
      return 0;
    };
  });
}

}  // namespace perceiver::program
