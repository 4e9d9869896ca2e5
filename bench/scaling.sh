#!/bin/sh
# Measures step time over the context length at a fixed number of latents, with the context projected directly and by
# tables, on this machine's GPU or CPU; updates docs/benchmarks/scaling.tsv and scaling.svg.
#   bench/scaling.sh cuda|cpu [BUILD_FOLDER] [LARGEST_CONTEXT]      (default: build, 524288)
# The two paths alternate for ROUNDS=3 rounds of STEPS=5 timed steps after WARMUP=2 others; the median of the rounds'
# medians counts. OUT=docs/benchmarks is where the two files go.
set -eu
cd "$(dirname "$0")/.."
device=${1:?cuda or cpu}
program=${2:-build}/perceiver
largest=${3:-524288}
rounds=${ROUNDS:-3}
steps=${STEPS:-5}
warmup=${WARMUP:-2}
out=${OUT:-docs/benchmarks}
case $device in
  cuda) config=configs/bench/scaling.yaml ;;
  cpu) config=configs/bench/scaling_cpu.yaml ;;
  *) echo "unknown device '$device': cuda or cpu" >&2; exit 2 ;;
esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# measure CONTEXT PATH: prints median milliseconds, TFLOP/s of the model and peak MiB.
measure() {
  "$program" bench train --config "$config" --steps "$steps" --warmup "$warmup" \
    --set "model.context_length=$1" --set "model.context_projection=$2" > "$work/json"
  awk -F'[:,]' '/"median"/ { ms = $2 } /"tflops"/ { rate = $2 } /"peak_allocated_mib"/ { mib = $2 }
    END { print ms + 0, rate + 0, mib + 0 }' "$work/json"
}

context=1024
while [ "$context" -le "$largest" ]; do
  for round in $(seq "$rounds"); do
    for path in direct table; do measure "$context" "$path" >> "$work/$path"; done
  done
  for path in direct table; do
    sort -n "$work/$path" | awk -v device="$device" -v path="$path" -v context="$context" \
      '{ line[NR] = $0 } END { split(line[int((NR + 1) / 2)], m); printf "%s\t%s\t%d\t%.5g\t%.4g\t%.0f\n", device, path, context, m[1], m[2], m[3] }' |
      tee -a "$work/rows"
    rm "$work/$path"
  done
  context=$((2 * context))
done

table=$out/scaling.tsv
[ -f "$table" ] || printf 'device\tprojection\tcontext\tstep_ms\ttflops\tpeak_mib\n' > "$table"
grep -v "^$device	" "$table" > "$work/table"
cat "$work/rows" >> "$work/table"
cp "$work/table" "$table"
awk -f bench/scaling_plot.awk "$table" > "$out/scaling.svg"
