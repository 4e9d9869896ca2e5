// One value of a configuration tree, checked against its key.
#pragma once

#include <string>

#include "config/node.h"
#include "config/schema.h"

namespace perceiver {

/// Reads `node` as the value of `key`. Throws a `user` error "place: key must be <expected>, not <found>".
ConfigValue read_value(const ConfigKey& key, const ConfigNode& node, const std::string& source);

/// Describes a node in such messages: 'text', a list, a mapping, nothing.
std::string describe_found(const ConfigNode& node);

}  // namespace perceiver
