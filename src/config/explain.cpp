#include "perceiver/config.h"

#include <string_view>

#include "base/check.h"
#include "base/text.h"
#include "config/schema.h"

namespace perceiver {
namespace {

constexpr size_t columns = 100;
constexpr size_t name_columns = 36;
constexpr size_t doc_indent = 6;

/// Appends `text` to `out`, starting at column `column`; further lines are indented to column `indent`.
void append_wrapped(std::string& out, std::string_view text, size_t column, size_t indent) {
  bool line_is_empty = true;
  while (!text.empty()) {
    const size_t space = text.find(' ');
    const std::string_view word = text.substr(0, space);
    if (!line_is_empty && column + 1 + word.size() > columns) {
      out += '\n' + std::string(indent, ' ');
      column = indent;
      line_is_empty = true;
    }
    if (!line_is_empty) out += ' ', ++column;
    out += word;
    column += word.size();
    line_is_empty = false;
    text.remove_prefix(space == std::string_view::npos ? text.size() : space + 1);
  }
  out += '\n';
}

void append_key(std::string& out, const ConfigKey& key) {
  const std::string head = fmt::format("  {:<{}}", key.path, name_columns - 2);
  out += head;
  append_wrapped(out, fmt::format("{}; default {}", describe_values(key), format_value(key, Config())),
                 head.size(), name_columns);
  out += std::string(doc_indent, ' ');
  append_wrapped(out, key.doc, doc_indent, doc_indent);
}

void append_section(std::string& out, const ConfigSection& section) {
  if (!out.empty()) out += '\n';
  out += section.name.empty() ? fmt::format("{}\n", section.doc)
                              : fmt::format("{}: {}\n", section.name, section.doc);
  for (const ConfigKey& key : config_keys())
    if (key.section() == section.name) append_key(out, key);
}

}  // namespace

std::string explain_config(const std::string& prefix) {
  std::string out;
  if (const ConfigKey* key = find_config_key(prefix)) {
    append_key(out, *key);
    return out;
  }
  if (!is_config_section(prefix))
    throw_user("no configuration key or section is called {}; did you mean '{}'?", quote(prefix),
               nearest_config_path(prefix));
  for (const ConfigSection& section : config_sections())
    if (prefix.empty() || section.name == prefix) append_section(out, section);
  return out;
}

}  // namespace perceiver
