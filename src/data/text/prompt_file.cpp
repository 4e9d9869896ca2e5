#include "data/text/prompt_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "io/json_document.h"

namespace perceiver {
namespace {

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
constexpr std::string_view kWhite = " \t\r";

bool is_utf16(std::string_view text) {
  return text.starts_with("\xff\xfe") || text.starts_with("\xfe\xff");
}

/// Without byte order mark.
std::string_view checked(std::string_view content, const std::string& source) {
  if (is_utf16(content))
    throw_user("{}: is UTF-16; prompts are UTF-8: iconv -f UTF-16 -t UTF-8 {} > new.txt", source, source);
  if (const size_t nul = content.find('\0'); nul != std::string_view::npos)
    throw_user("{}: byte {} is NUL, so it is not text; prompts are UTF-8", source, nul);
  if (content.starts_with(kByteOrderMark)) content.remove_prefix(kByteOrderMark.size());
  return content;
}

std::string prompt_of_line(std::string_view line, bool json, const std::string& place) {
  if (!json) return std::string(line);
  const nlohmann::json value = parse_json_document(std::string(line), place);
  if (value.is_string()) return value.get<std::string>();
  if (value.is_object() && value.contains("prompt") && value["prompt"].is_string())
    return value["prompt"].get<std::string>();
  throw_user("{}: expected a JSON string or an object with a string 'prompt'", place);
}

}  // namespace

std::string prompt_text(std::string_view content, const std::string& source) {
  return std::string(checked(content, source));
}

std::vector<std::string> prompt_lines(std::string_view content, bool json, const std::string& source) {
  std::vector<std::string> prompts;
  content = checked(content, source);
  for (size_t begin = 0, number = 1; begin < content.size(); ++number) {
    const size_t end = std::min(content.find('\n', begin), content.size());
    std::string_view line = content.substr(begin, end - begin);
    begin = end + 1;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(kWhite) == std::string_view::npos) continue;
    prompts.push_back(prompt_of_line(line, json, fmt::format("{}:{}", source, number)));
  }
  if (prompts.empty()) throw_user("{}: contains no prompt; expected one a line", source);
  return prompts;
}

}  // namespace perceiver
