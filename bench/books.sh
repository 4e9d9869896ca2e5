#!/bin/sh
# Trains a byte-level model of books (configs/pg19.yaml) for a given time on this machine's GPU and prints its
# validation bits per byte by the minute; then scores the validation books and writes a sample.
#   bench/books.sh BOOKS [MINUTES] [BUILD_FOLDER]
# BOOKS: a folder with train/ and validation/, or an archive of one (.tar.zst). MINUTES: default 8. SET: more
# settings, e.g. SET="model.layers=2 train.batch=4".
# The step time is measured first and sets the number of steps, hence the decay of the learning rate, and the interval
# of validation, one per minute.
set -eu
cd "$(dirname "$0")/.."
books=${1:?"the folder or archive with the books: bench/books.sh BOOKS [MINUTES] [BUILD_FOLDER]"}
minutes=${2:-8}
program=${3:-build}/perceiver
run=${RUN:-runs/pg19}

if [ -f "$books" ]; then
  mkdir -p data/pg19
  tar --zstd -xf "$books" -C data/pg19
  books=data/pg19
fi
for split in train validation; do
  [ -d "$books/$split" ] || { echo "$books has no folder $split" >&2; exit 1; }
done
set -- --set "data.train=$books/train" --set "data.validation=$books/validation"
for setting in ${SET:-}; do set -- "$@" --set "$setting"; done

speed=$("$program" bench train --config configs/pg19.yaml --steps 20 --warmup 5 "$@")
milliseconds=$(echo "$speed" | sed -n 's/.*"median": *\([0-9.]*\).*/\1/p')
# 3% of the time is left for validation and the last checkpoint. Validation must fall on a logged step.
plan=$(awk -v ms="$milliseconds" -v minutes="$minutes" 'BEGIN {
  steps = int(minutes * 60 * 0.97 * 1000 / ms); if (steps < 10) steps = 10
  every = int(steps / minutes); if (every < 1) every = 1; if (every > steps) every = steps
  log_every = int(every / 20); if (log_every < 1) log_every = 1
  warmup = int(steps / 30)
  print steps, log_every * int(every / log_every), log_every, warmup
}')
echo "$milliseconds ms per step; steps, validation interval, logging interval, warm-up steps: $plan"
read -r steps every log_every warmup << EOF
$plan
EOF

rm -rf "$run"
"$program" train configs/pg19.yaml --run "$run" "$@" --set "train.steps=$steps" --set "eval.every=$every" \
  --set "train.log_every=$log_every" --set "schedule.warmup_steps=$warmup" \
  --set "train.max_minutes=$(awk -v minutes="$minutes" 'BEGIN { print minutes * 1.1 }')"

echo
echo "minute  step  train_bits_per_byte  validation_bits_per_byte"
awk '
  function field(name) {
    return match($0, "\"" name "\":[-0-9.e+]*") ? substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3) : ""
  }
  /"elapsed"/ { elapsed = field("elapsed"); bits = field("bits") }
  /"validation_bits_per_byte"/ {
    printf "%6.2f %5d %20.4f %25.4f\n", elapsed / 60, field("step"), bits, field("validation_bits_per_byte")
  }' "$run/metrics.jsonl"
echo
echo "The validation books:"
"$program" eval --checkpoint "$run" --split validation --max-documents "${DOCUMENTS:-0}"
echo
echo "A sample:"
"$program" sample --checkpoint "$run" --prompt "${PROMPT:-It was on a dreary night in November that}" \
  --tokens "${TOKENS:-800}" --temperature 0.8 --top-p 0.95 --seed 1
