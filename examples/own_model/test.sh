#!/bin/sh
# test.sh BINARY PERCEIVER_PROGRAM WORKDIR: trains on a text made here, in the empty folder WORKDIR; the loss must
# fall by half, and bad arguments must be one line.
set -eu
binary=$1
cd "$3"
i=0
while [ $i -lt 200 ]; do
  echo "The quick brown fox number $i jumps over the lazy dog; then dog $i sleeps."
  i=$((i + 1))
done > text.txt
"$binary" text.txt --device cpu > output.txt
cat output.txt
awk '/^step/ { loss = $4; if (first == "") first = loss }
     END { if (!(loss > 0 && loss < first / 2)) { print "the loss went from " first " to " loss; exit 1 } }' output.txt
grep -q '^sample: ' output.txt
test -s own_model.safetensors
if "$binary" no-such-file 2> error.txt; then exit 1; fi
test "$(wc -l < error.txt)" = 1
if "$binary" text.txt --device abacus 2> error.txt; then exit 1; fi
grep -q abacus error.txt
