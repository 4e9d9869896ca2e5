// A configuration text as a tree with line numbers, before its keys are checked. YAML and JSON both become
// such trees, and one reader checks both.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace perceiver {

/// A position in a text, from 1; line 0 = lines mean nothing here (an override, stored JSON).
struct TextPosition {
  int line = 0;
  int column = 0;
};

struct ConfigNode {
  enum class Kind { null, plain, quoted, sequence, mapping };

  Kind kind = Kind::null;
  std::string text = {};  ///< of a plain or quoted scalar, UTF-8
  TextPosition position;
  std::vector<ConfigNode> keys = {};   ///< of a mapping: distinct scalars
  std::vector<ConfigNode> items = {};  ///< of a sequence, or the value of each key of a mapping

  bool is_scalar() const { return kind == Kind::plain || kind == Kind::quoted; }
};

/// "source:line" or, without lines, "source".
std::string describe_place(const std::string& source, TextPosition position);

/// Builds a tree from parser events. Refuses, with `user` errors, what no configuration needs: nesting deeper
/// than `max_depth`, more than `max_nodes` values, and keys that are not scalars or appear twice.
class NodeBuilder {
 public:
  static constexpr size_t max_depth = 8;
  static constexpr size_t max_nodes = 100'000;

  explicit NodeBuilder(const std::string& source) : source_(source) {}

  /// A value, or a key if a mapping expects one. `kind`: null, plain or quoted.
  void scalar(ConfigNode::Kind kind, std::string text, TextPosition position);
  void open_sequence(TextPosition position) { open(ConfigNode::Kind::sequence, position); }
  void open_mapping(TextPosition position) { open(ConfigNode::Kind::mapping, position); }
  void close();
  /// The finished tree; null if there were no events.
  ConfigNode take() { return std::move(root_); }

 private:
  struct Frame {
    ConfigNode node;
    std::set<std::string> names = {};  ///< keys seen
  };

  void open(ConfigNode::Kind kind, TextPosition position);
  void count(TextPosition position);
  bool key_is_due() const;
  void add_key(ConfigNode node);
  void add(ConfigNode node);

  const std::string& source_;
  std::vector<Frame> stack_;
  ConfigNode root_;
  size_t nodes_ = 0;
};

}  // namespace perceiver
