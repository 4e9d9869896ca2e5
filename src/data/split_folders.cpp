#include "data/split_folders.h"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <string_view>
#include <vector>

#include "base/check.h"
#include "base/text.h"

namespace perceiver {
namespace {

namespace fs = std::filesystem;

struct Name {
  std::string_view name;
  Split split;
};

constexpr Name known_names[] = {
    {"train", Split::train},    {"training", Split::train},   {"validation", Split::validation},
    {"val", Split::validation}, {"valid", Split::validation}, {"dev", Split::validation},
    {"test", Split::test},      {"testing", Split::test},
};

const Name* find_name(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto* found = std::find_if(std::begin(known_names), std::end(known_names),
                                   [&](const Name& n) { return n.name == name; });
  return found == std::end(known_names) ? nullptr : found;
}

}  // namespace

std::string SplitFolders::list() const {
  std::vector<std::string> found;
  for (const std::string& name : names)
    if (!name.empty()) found.push_back(printable(name) + "/");
  if (found.size() < 2) return found.empty() ? "" : found[0];
  const std::string last = found.back();
  found.pop_back();
  return fmt::format("{} and {}", fmt::join(found, ", "), last);
}

SplitFolders find_split_folders(const std::string& corpus) {
  SplitFolders folders;
  std::error_code error;
  fs::directory_iterator entry(corpus, error);
  for (const fs::directory_iterator end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    const Name* known = find_name(name);
    std::error_code ignored;
    if (!known || !entry->is_directory(ignored)) continue;
    std::string& held = folders.names[static_cast<size_t>(known->split)];
    if (!held.empty())
      throw_user("{}: has {}/ and {}/, both for {}; keep one of them", printable(corpus),
                 std::min(printable(held), printable(name)), std::max(printable(held), printable(name)),
                 split_name(known->split));
    held = name;
  }
  return folders;
}

}  // namespace perceiver
