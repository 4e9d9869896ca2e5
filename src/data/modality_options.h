// The options of a modality: how a modality declares them, what the user set, and how they are stored.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

struct ModalityKind;

/// `data.options.<name>` in YAML, `--<name>` of `perceiver data build`.
struct ModalityOption {
  /// What the option affects: the token ids (it is then part of the tokenizer, and stored in shards and
  /// models), or training only (it may be changed for existing shards).
  enum class Use { tokens, training };
  std::string_view name;           ///< lower_case
  std::string_view default_value;  ///< as the user would write it
  std::string_view doc;            ///< meaning, unit and range, one sentence
  Use use = Use::tokens;
  bool is_path = false;  ///< any value but the default names a file
};

/// The user's values on top of a kind's defaults. Every getter throws `user` "data.options.size: 'x' is …"
/// for a value of the wrong form, and `failure` for a name that the kind does not declare.
class ModalityOptions {
 public:
  /// Throws `user` for a name that `kind` does not declare, and suggests the nearest one.
  ModalityOptions(const ModalityKind& kind, std::map<std::string, std::string> given);

  int64_t integer(std::string_view name, int64_t min, int64_t max) const;
  double real(std::string_view name, double min, double max) const;
  bool flag(std::string_view name) const;  ///< true or false
  /// The index of the value in `words`.
  size_t word(std::string_view name, std::initializer_list<std::string_view> words) const;
  /// A list such as "1024,1024,512": at most `most` integers, each from `min` to `max`. An empty text is an
  /// empty list.
  std::vector<int64_t> integers(std::string_view name, size_t most, int64_t min, int64_t max) const;
  /// Any text, e.g. a path; may be empty.
  const std::string& text(std::string_view name) const;

  /// The values of all options of that use, defaults included.
  std::map<std::string, std::string> values(ModalityOption::Use use) const;
  const ModalityKind& kind() const { return *kind_; }

 private:
  const ModalityKind* kind_;
  std::map<std::string, std::string, std::less<>> values_;
};

/// Packs a tokenizer into one text: the modality's name, a line feed, the values as a JSON object; and back.
/// unpack_tokenizer throws `user` if the text belongs to another modality, is not such an object, or is
/// larger than 64 MiB.
std::string pack_tokenizer(std::string_view modality, const std::map<std::string, std::string>& values);
std::map<std::string, std::string> unpack_tokenizer(std::string_view modality, std::string_view tokenizer);

}  // namespace perceiver
