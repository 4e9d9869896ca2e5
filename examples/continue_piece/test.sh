#!/bin/sh
# test.sh BINARY PERCEIVER FOLDER: runs the example in an empty folder. PERCEIVER makes its model.
set -eu
continue=$1
perceiver=$2
source=$(cd "$(dirname "$0")/../.." && pwd)
cd "$3"
# scale FILE PITCHES: nine notes of a quarter each; format 0, 480 ticks a quarter note; pitches in octal.
scale() {
  printf 'MThd\000\000\000\006\000\000\000\001\001\340MTrk\000\000\000\125' > "$1"
  for pitch in $2; do printf "\\000\\220\\$pitch\\100\\203\\140\\200\\$pitch\\000" >> "$1"; done
  printf '\000\377\057\000' >> "$1"
}
mkdir music
scale music/scale.mid "074 076 100 101 103 105 107 110 112"
scale music/down.mid "112 110 107 105 103 101 100 076 074"
"$perceiver" --device cpu train "$source/configs/quickstart_music.yaml" --run run --quiet --set data.train=music --set data.validation_fraction=0.5 \
  --set model.context_length=128 --set model.latents=32 --set model.input_channels=32 --set model.layers=1 --set train.steps=60 \
  --set train.batch=4 --set eval.every=0
"$continue" run music/scale.mid out.mid 2 80 > out
[ "$(tail -1 out)" = out.mid ]
[ "$(grep -c ' s  [A-G]' out)" -gt 0 ]
[ "$(head -c 4 out.mid)" = MThd ]
# The given part is still there: continuing what was written, from its start, gives the same notes.
"$continue" run out.mid again.mid 2 80 > again
[ "$(sed '$d' again)" = "$(sed '$d' out)" ]
