// The members of a JSON object from a client, read once each with their types and ranges.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver::serve {

/// Every reader returns nothing for a member that is missing or null, and throws HttpError 400, naming the
/// member, for one of another type or out of range. The object must outlive this.
class JsonFields {
 public:
  /// `where`: before the names in messages, e.g. "notes[3]."; may be empty. Throws for anything but an
  /// object.
  explicit JsonFields(const nlohmann::json& object, std::string where = "");

  const nlohmann::json* any(const std::string& name);
  std::optional<int64_t> integer(const std::string& name, int64_t least, int64_t most);
  std::optional<double> number(const std::string& name, double least, double most);
  std::optional<bool> flag(const std::string& name);
  std::optional<std::string> text(const std::string& name);
  std::optional<std::string> one_of(const std::string& name, const std::vector<std::string_view>& choices);

  /// Throws for a member that no reader was asked for.
  void finish() const;

 private:
  const nlohmann::json& object_;
  std::string where_;
  std::set<std::string> known_;
};

/// The body of a request. Throws HttpError 400 for what is no JSON object.
nlohmann::json parse_body(std::string_view body);

}  // namespace perceiver::serve
