// The manual page, from the parser.
#include <algorithm>
#include <cctype>

#include "perceiver/version.h"
#include "tools/command_line.h"
#include "tools/describe.h"

namespace perceiver::program {
namespace {

std::string upper_case(std::string text) {
  for (char& c : text) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return text;
}

/// The text as roff shows it unchanged: no escapes, no requests at the start of a line.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool starts_line = out.empty() || out.back() == '\n';
    if (starts_line && (c == '.' || c == '\'')) out += "\\&";
    if (c == '\\')
      out += "\\e";
    else if (c == '-')
      out += "\\-";
    else
      out += c;
  }
  return out;
}

std::string entry(const CLI::Option& option) {
  std::string head;
  for (const std::string& name : option.get_snames()) head += ", -" + name;
  for (const std::string& name : option.get_lnames()) head += ", --" + name;
  if (head.empty()) head = ", " + upper_case(option.get_single_name());
  const bool value = option.nonpositional() && option.get_items_expected_max() > 0;
  std::string text = option.get_description();
  if (!option.get_default_str().empty()) text += ". Default: " + option.get_default_str();
  if (option.get_required()) text += ". Required";
  return ".TP\n.B " + escaped(head.substr(2) + (value ? " " + option.get_type_name() : "")) + "\n" +
         escaped(text) + ".\n";
}

std::string entries(const CLI::App& command) {
  std::string out;
  for (const CLI::Option* option : command.get_options()) out += entry(*option);
  return out;
}

std::string verbatim(const std::string& text) {
  return text.empty() ? "" : ".PP\n.nf\n" + escaped(text) + "\n.fi\n";
}

std::string command_section(const CLI::App& command) {
  return ".SS " + escaped(full_name(command)) + "\n" + escaped(command.get_description()) + ".\n" +
         entries(command) + verbatim(command.get_footer());
}

}  // namespace

std::string man_page(const CLI::App& app) {
  std::string out = std::string(".TH PERCEIVER 1 \"\" \"perceiver ") + version() + "\" \"User Commands\"\n";
  out += ".SH NAME\nperceiver \\- train, evaluate and sample Perceiver AR models\n";
  out += ".SH SYNOPSIS\n.B perceiver\nCOMMAND [OPTIONS]\n";
  out +=
      ".SH DESCRIPTION\n" + escaped(app.get_description()) + "\nResults go to stdout, messages to stderr.\n";
  out += ".SH OPTIONS OF EVERY COMMAND\n" + entries(app);
  out += ".SH COMMANDS\n";
  for (const CLI::App* command : all_commands(app))
    if (command != &app) out += command_section(*command);
  out += ".SH EXAMPLES\n" + verbatim(app.get_footer());
  out +=
      ".SH EXIT STATUS\n0 if all went well, 2 for a mistake in the command line or in a file, 1 if the "
      "machine failed.\n";
  return out;
}

}  // namespace perceiver::program
