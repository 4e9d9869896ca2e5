#!/bin/sh
# Checks that includes point one way: a file may include its own layer and those below it, never one above.
#   tools/check_layers.sh [SOURCE_FOLDER]
# Prints each include that points up and each folder that is missing from the order below; exits 1 if there is any.
set -eu
cd "${1:-$(dirname "$0")/..}"

# Bottom first. Folders on one line may not include each other.
layers="
include
base
io kernels
config core
distributed
autograd
ops
nn
model
data
generate
eval
port
train
report
api
serve
tools
tests fuzz examples
bench
"

# The headers in include/perceiver/experimental, each in the layer of what implements it.
experimental="
base dtype launch philox random
core device_context host_values tensor tensor_file
autograd tape variable
ops ops
nn layers parameters
train experimental schedule training_steps
"

find include kernels src tools bench tests fuzz examples -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.inc' |
  sort | xargs grep -Hn '^[[:space:]]*#[[:space:]]*include "' |
  awk -F: -v layers="$layers" -v experimental="$experimental" '
    # The layer of a path: its first folder, not counting src/.
    function layer(path,   parts, stem) {
      sub(/^include\/perceiver\//, "perceiver/", path)
      if (path ~ /^perceiver\/experimental\//) {
        stem = path
        gsub(/^.*\/|[.]h$/, "", stem)
        return (stem in home) ? home[stem] : path
      }
      sub(/^src\//, "", path)
      sub(/^perceiver\//, "include/", path)
      split(path, parts, "/")
      return parts[1]
    }
    BEGIN {
      count = split(layers, line, "\n")
      for (i = 1; i <= count; ++i) {
        names = split(line[i], name, " ")
        for (j = 1; j <= names; ++j) rank[name[j]] = i
      }
      count = split(experimental, line, "\n")
      for (i = 1; i <= count; ++i) {
        names = split(line[i], name, " ")
        for (j = 2; j <= names; ++j) home[name[j]] = name[1]
      }
    }
    {
      split($3, quoted, "\"")
      from = layer($1)
      to = layer(quoted[2])
      if (!(from in rank) || !(to in rank)) {
        printf "%s:%s: \"%s\": %s has no layer: name it in tools/check_layers.sh\n", $1, $2, quoted[2], (from in rank) ? to : from
        bad = 1
      } else if (rank[to] > rank[from] || (rank[to] == rank[from] && to != from)) {
        printf "%s:%s: \"%s\": %s is not below %s\n", $1, $2, quoted[2], to, from
        bad = 1
      }
    }
    END { exit bad }'
