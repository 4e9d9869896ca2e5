#!/bin/sh
# Trains, and uses the model with the program too.
#   test.sh BINARY PERCEIVER_PROGRAM EMPTY_FOLDER
set -eu
binary=$1
perceiver=$2
cd "$3"
fail() { echo "train_own_data: $1"; cat out; exit 1; }

"$binary" run > out 2>&1 || fail "it ended with an error"
grep -q '^step 400/400  loss ' out || fail "no loss of the last step"
grep -q '^step 400  validation loss .*(best so far)$' out || fail "no validation"
[ "$(tail -1 out)" = "1 4 7 0 3 6 9 2 5 8 1" ] || fail "it counts otherwise"

# The run's folder is like any other: values 0 to 9 as .npy files.
"$perceiver" info run > out
grep -q '^modality  *tokens$' out || fail "info does not know the modality"
"$perceiver" sample run --tokens 16 --count 2 --out made.npy > out
"$perceiver" eval run --set data.train=made-1.npy --set data.validation=made-2.npy --json > out
grep -q '"documents": 1' out || fail "eval read no document"

# Without a folder nothing is written; with one that is taken, nothing is lost.
"$binary" > out 2>&1 || fail "it needs a folder"
[ "$(ls)" = "made-1.npy
made-2.npy
out
run" ] || fail "it wrote files: $(ls)"
"$binary" run > out 2>&1 && fail "it overwrote a run"
grep -q '^run already holds a run of 400 steps' out || fail "another message"
