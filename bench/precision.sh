#!/bin/sh
# Does training in bfloat16 follow training in float32? Trains on the copy task, on text and (with MUSIC) on music,
# 1,000 steps each on this machine's GPU from the same weights, and reports how far the loss curves differ, beside the
# difference between two float32 runs with different seeds (the noise).
#   bench/precision.sh TEXT_FILE [BUILD_FOLDER] [OUTPUT_FOLDER]
# Writes OUTPUT_FOLDER/{copy,text,music}.csv (step and the three losses in nats) and prints a summary. STEPS: default
# 1000. MUSIC: shards of music (perceiver data build). SET: more settings for all runs, e.g. SET="train.batch=2".
# REDUCED, FULL: the precisions compared; REDUCED_SET: settings of the reduced one alone, such as
# "optimizer.state=bfloat16". TOGETHER=1 runs the three of a task at the same time.
set -eu
cd "$(dirname "$0")/.."
text=${1:?"a text file: bench/precision.sh TEXT_FILE [BUILD_FOLDER] [OUTPUT_FOLDER]"}
program=${2:-build}/perceiver
out=${3:-runs/precision}
steps=${STEPS:-1000}
reduced=${REDUCED:-bfloat16}
full=${FULL:-float32}
rm -rf "$out"
mkdir -p "$out"

# train NAME CONFIGURATION PRECISION SEED [SETTINGS...]: writes the losses, every 10 steps, to OUTPUT_FOLDER/NAME.losses
train() {
  name=$1 config=$2 precision=$3 seed=$4
  shift 4
  for setting in ${SET:-} "train.steps=$steps" "train.log_every=10" "train.precision=$precision" \
    "train.seed=$seed" "eval.every=0" "eval.max_documents=1" "checkpoint.every=0" "train.tensorboard=false"; do
    set -- "$@" --set "$setting"
  done
  "$program" train "$config" --run "$out/$name" "$@" > /dev/null 2> "$out/$name.log" ||
    { tail -3 "$out/$name.log" >&2; exit 1; }
  sed -n 's/.*"step":\([0-9]*\),"loss":\([-0-9.e+]*\),.*/\1 \2/p' "$out/$name/metrics.jsonl" > "$out/$name.losses"
}

# compare TASK: joins the three curves and prints their RMS differences over each quarter of the run
compare() {
  echo "step,${reduced}_seed1,${full}_seed1,${full}_seed2" > "$out/$1.csv"
  join "$out/$1.reduced.losses" "$out/$1.full.losses" --nocheck-order |
    join - "$out/$1.other.losses" --nocheck-order | tr ' ' ',' >> "$out/$1.csv"
  awk -F, -v task="$1" -v steps="$steps" '
    NR > 1 {
      q = int(4 * ($1 - 1) / steps); n[q]++
      a[q] += $2; b[q] += $3; c[q] += $4; d[q] += ($2 - $3) ^ 2; e[q] += ($4 - $3) ^ 2; bias[q] += $2 - $3
    }
    END {
      for (q = 0; q < 4; ++q)
        if (n[q]) printf "%-6s %5d-%-5d %10.4f %10.4f %10.4f %12.5f %12.5f %12.5f\n", task, q * steps / 4 + 1,
          (q + 1) * steps / 4, a[q] / n[q], b[q] / n[q], c[q] / n[q], bias[q] / n[q], sqrt(d[q] / n[q]), sqrt(e[q] / n[q])
    }' "$out/$1.csv"
}

echo "Mean losses in nats over each quarter of the run; the mean of $reduced - $full; RMS differences of"
echo "the curves: $reduced from $full with the same seed, and $full with another seed (noise)."
printf '%-6s %11s %10s %10s %10s %12s %12s %12s\n' task steps "$reduced" "$full" "other seed" "mean diff." \
  "rms diff." "rms noise"
for task in copy text ${MUSIC:+music}; do
  case $task in
    copy) yaml=configs/copy32.yaml data="data.type=copy" ;;
    text) yaml=configs/tinyshakespeare.yaml data="data.train=$text" ;;
    music) yaml=configs/maestro.yaml data="data.train=$MUSIC" ;;
  esac
  more=
  for setting in ${REDUCED_SET:-}; do more="$more --set $setting"; done
  # shellcheck disable=SC2086
  train $task.reduced $yaml "$reduced" 1 --set "$data" $more &
  [ "${TOGETHER:-}" ] || wait $!
  train $task.full $yaml "$full" 1 --set "$data" &
  [ "${TOGETHER:-}" ] || wait $!
  train $task.other $yaml "$full" 2 --set "$data"
  wait
  compare $task
done
