#include "config/yaml_text.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "base/check.h"
#include "base/text.h"

namespace perceiver {
namespace {

using Kind = ConfigNode::Kind;

bool is_control(char c) {
  const auto byte = static_cast<unsigned char>(c);
  return (byte < 0x20 && c != '\n' && c != '\r' && c != '\t') || byte == 0x7F;
}

/// yaml-cpp takes a byte 4 for the end of the text, nlohmann-json a byte 0, and neither rejects all invalid
/// UTF-8: such texts are refused before parsing.
void check_text(std::string_view text, const std::string& source) {
  if (text.size() > max_config_text)
    throw_user("{}: {} bytes exceed the {} allowed for a configuration", source, text.size(),
               max_config_text);
  const auto control = std::find_if(text.begin(), text.end(), is_control);
  if (control != text.end())
    throw_user("{}:{}: control character {:#04x}; write text only", source,
               1 + std::count(text.begin(), control, '\n'), static_cast<unsigned>(*control));
  if (!is_utf8(text)) throw_user("{}: not UTF-8 text; save it as UTF-8", source);
}

/// yaml-cpp skips unknown directives, which would let a stray '%' silently hide a line.
void check_directives(std::string_view text, const std::string& source) {
  for (size_t at = 0, line = 1; at < text.size(); ++line) {
    if (text[at] == '%')
      throw_user("{}:{}: a line cannot begin with '%'; quote it or remove it", source, line);
    const size_t end = text.find('\n', at);
    at = end == std::string_view::npos ? text.size() : end + 1;
  }
}

/// Turns yaml-cpp's events into a tree.
class YamlHandler : public YAML::EventHandler {
 public:
  YamlHandler(const std::string& source, bool with_lines)
      : source_(source), with_lines_(with_lines), builder_(source) {}

  ConfigNode take() { return builder_.take(); }

  void OnDocumentStart(const YAML::Mark& mark) override {
    if (++documents_ > 1)
      throw_user("{}: text follows the end of the first YAML document; only one is allowed", place(mark));
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    builder_.scalar(Kind::null, "", position(mark));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override { refuse_anchor(mark, anchor); }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    builder_.scalar(tag == "!" ? Kind::quoted : Kind::plain, value, position(mark));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    builder_.open_sequence(position(mark));
  }
  void OnSequenceEnd() override { builder_.close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    builder_.open_mapping(position(mark));
  }
  void OnMapEnd() override { builder_.close(); }

 private:
  TextPosition position(const YAML::Mark& mark) const {
    return with_lines_ ? TextPosition{mark.line + 1, mark.column + 1} : TextPosition{};
  }
  std::string place(const YAML::Mark& mark) const { return describe_place(source_, position(mark)); }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != YAML::NullAnchor)
      throw_user("{}: anchors (&) and aliases (*) are not supported; write the value out", place(mark));
  }
  void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    const bool plain = tag.empty() || tag == "?" || tag == "!";  // none, plain scalar, quoted scalar
    if (!plain) throw_user("{}: the tag {} is not supported; remove it", place(mark), quote(tag));
  }

  const std::string& source_;
  bool with_lines_;
  NodeBuilder builder_;
  int documents_ = 0;
};

[[noreturn]] void throw_syntax(const std::string& source, const YAML::Exception& error, bool with_lines) {
  const bool located = with_lines && error.mark.line >= 0;
  const std::string place =
      located ? fmt::format("{}:{}:{}", source, error.mark.line + 1, error.mark.column + 1) : source;
  // yaml-cpp copies characters of the text, including its end mark, into messages unescaped.
  throw_user("{}: YAML syntax error: {}", place, printable(error.msg));
}

ConfigNode parse_yaml_text(std::string_view text, const std::string& source, bool with_lines) {
  check_text(text, source);
  check_directives(text, source);
  YamlHandler handler(source, with_lines);
  std::istringstream stream{std::string(text)};
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(handler)) {
    }
  } catch (const YAML::Exception& error) {
    throw_syntax(source, error, with_lines);
  }
  return handler.take();
}

/// Turns nlohmann-json's events into a tree. Numbers keep their text.
class JsonHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit JsonHandler(const std::string& source) : source_(source), builder_(source) {}

  ConfigNode take() { return builder_.take(); }

  bool null() override { return scalar(Kind::null, ""); }
  bool boolean(bool value) override { return scalar(Kind::plain, value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return scalar(Kind::plain, std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override {
    return scalar(Kind::plain, std::to_string(value));
  }
  bool number_float(number_float_t, const string_t& text) override { return scalar(Kind::plain, text); }
  bool string(string_t& value) override { return scalar(Kind::quoted, value); }
  bool key(string_t& value) override { return scalar(Kind::quoted, value); }
  bool binary(binary_t&) override { throw_user("{}: binary data in JSON", source_); }
  bool start_object(std::size_t) override {
    builder_.open_mapping({});
    return true;
  }
  bool start_array(std::size_t) override {
    builder_.open_sequence({});
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    throw_user("{}: not valid JSON at byte {}", source_, position);
  }

 private:
  bool scalar(Kind kind, std::string text) {
    builder_.scalar(kind, std::move(text), {});
    return true;
  }
  bool close() {
    builder_.close();
    return true;
  }

  const std::string& source_;
  NodeBuilder builder_;
};

}  // namespace

ConfigNode parse_yaml(std::string_view text, const std::string& source) {
  return parse_yaml_text(text, source, true);
}

ConfigNode parse_yaml_value(std::string_view text, const std::string& source) {
  return parse_yaml_text(text, source, false);
}

ConfigNode parse_json(std::string_view text, const std::string& source) {
  check_text(text, source);
  JsonHandler handler(source);
  nlohmann::json::sax_parse(text, &handler);
  return handler.take();
}

}  // namespace perceiver
