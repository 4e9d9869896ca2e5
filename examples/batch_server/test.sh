#!/bin/sh
# test.sh BINARY PERCEIVER FOLDER: runs the example in an empty folder. PERCEIVER makes its model.
set -eu
server=$1
perceiver=$2
source=$(cd "$(dirname "$0")/../.." && pwd)
cd "$3"
"$perceiver" import "$source/tests/golden/rotary_ragged.safetensors" --out model.safetensors
for i in 1 2 3 4 5 6 7 8 9; do echo "prompt $i"; done > prompts
"$server" model.safetensors 3 < prompts > few
"$server" model.safetensors 8 < prompts > many
[ "$(grep -a -c '^prompt [1-9] |' few)" -eq 9 ]
# An answer does not depend on the others, nor on the number of slots.
LC_ALL=C sort few > a
LC_ALL=C sort many > b
cmp a b
