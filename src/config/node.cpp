#include "config/node.h"

#include <utility>

#include "base/check.h"
#include "base/text.h"

namespace perceiver {

std::string describe_place(const std::string& source, TextPosition position) {
  return position.line > 0 ? fmt::format("{}:{}", source, position.line) : source;
}

void NodeBuilder::scalar(ConfigNode::Kind kind, std::string text, TextPosition position) {
  count(position);
  ConfigNode node{.kind = kind, .text = std::move(text), .position = position};
  if (key_is_due()) {
    add_key(std::move(node));
  } else {
    add(std::move(node));
  }
}

void NodeBuilder::open(ConfigNode::Kind kind, TextPosition position) {
  count(position);
  if (key_is_due())
    throw_user("{}: a list or mapping cannot be a key; is a bracket left open?",
               describe_place(source_, position));
  if (stack_.size() == max_depth)
    throw_user("{}: nested more than {} levels deep; no configuration is", describe_place(source_, position),
               max_depth);
  stack_.push_back({.node = {.kind = kind, .position = position}});
}

void NodeBuilder::close() {
  PERCEIVER_ASSERT(!stack_.empty());
  ConfigNode node = std::move(stack_.back().node);
  stack_.pop_back();
  add(std::move(node));
}

void NodeBuilder::count(TextPosition position) {
  if (++nodes_ > max_nodes)
    throw_user("{}: more than {} values; is it a configuration?", describe_place(source_, position),
               max_nodes);
}

bool NodeBuilder::key_is_due() const {
  if (stack_.empty() || stack_.back().node.kind != ConfigNode::Kind::mapping) return false;
  const ConfigNode& mapping = stack_.back().node;
  return mapping.keys.size() == mapping.items.size();
}

void NodeBuilder::add_key(ConfigNode node) {
  const std::string place = describe_place(source_, node.position);
  if (!node.is_scalar()) throw_user("{}: a key is missing before ':'", place);
  if (!stack_.back().names.insert(node.text).second)
    throw_user("{}: the key {} appears twice; remove one", place, quote(node.text));
  stack_.back().node.keys.push_back(std::move(node));
}

void NodeBuilder::add(ConfigNode node) {
  if (stack_.empty()) {
    root_ = std::move(node);
  } else {
    stack_.back().node.items.push_back(std::move(node));
  }
}

}  // namespace perceiver
