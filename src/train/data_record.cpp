#include "train/data_record.h"

#include <fmt/format.h>

#include <vector>

namespace perceiver {
namespace {

DataRecord::Part part_of(const Dataset& data, Split split) {
  return {.documents = data.documents(split), .tokens = data.tokens(split)};
}

std::string size_text(const DataRecord::Part& part) {
  if (part.documents == 0) return "no documents";
  return fmt::format("{} document{} of {} tokens", part.documents, part.documents == 1 ? "" : "s",
                     part.tokens);
}

}  // namespace

DataRecord record_of(const Dataset& data) {
  DataRecord record{.fingerprint = data.fingerprint(), .splits = {}};
  if (data.unbounded()) return record;
  for (const Split split : {Split::train, Split::validation, Split::test})
    record.splits[static_cast<size_t>(split)] = part_of(data, split);
  return record;
}

bool same_data(const DataRecord& before, const DataRecord& now) {
  const bool known = before.fingerprint != 0 && now.fingerprint != 0;
  return before.splits == now.splits && (!known || before.fingerprint == now.fingerprint);
}

std::string describe_difference(const DataRecord& before, const DataRecord& now) {
  std::vector<std::string> changes;
  for (const Split split : {Split::train, Split::validation, Split::test})
    if (before.of(split) != now.of(split))
      changes.push_back(fmt::format("{}: {} instead of {}", split_name(split), size_text(now.of(split)),
                                    size_text(before.of(split))));
  if (changes.empty()) return "as many documents and tokens as before, but other content";
  return fmt::format("{}", fmt::join(changes, "; "));
}

}  // namespace perceiver
