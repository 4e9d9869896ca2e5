// One value of a configuration tree, checked against its key.
#pragma once

#include <string>

#include "config/node.h"
#include "config/schema.h"

namespace perceiver {

/// The value of `key` that `node` holds. Throws a `user` error "place: key must be <expected>, not <found>".
ConfigValue read_value(const ConfigKey& key, const ConfigNode& node, const std::string& source);

/// What a node is, for such messages: 'text', a list, a mapping, nothing.
std::string describe_found(const ConfigNode& node);

}  // namespace perceiver
