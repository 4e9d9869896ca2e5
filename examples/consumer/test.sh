#!/bin/sh
# test.sh BINARY PERCEIVER FOLDER: runs the example in an empty folder. PERCEIVER makes its model.
set -eu
consumer=$1
perceiver=$2
examples=$(cd "$(dirname "$0")/.." && pwd)
cd "$3"
"$perceiver" import "$examples/../tests/golden/rotary_ragged.safetensors" --out model.safetensors
"$consumer" model.safetensors "To be" > out
grep -q "^237763 parameters, [0-9.]* bits per byte$" out
[ "$(wc -l < "$examples/consumer/main.cpp")" -lt 40 ]
code=0
"$consumer" none "To be" || code=$?
[ $code -eq 2 ]
