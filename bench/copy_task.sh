#!/bin/sh
# Trains the copy task (Hawthorne et al. 2022, section 5.1) at one length after the other, each stage from the weights
# of the one before, and scores each stage, and at the end the last model at every length, on sequences that it has not
# seen: every token of the mirror image, not only those of one window of latents.
#   bench/copy_task.sh [BUILD_FOLDER] [LONGEST]
# LONGEST: a power of two from 32 (default 131072). STEPS, FIRST_STEPS, LAST_STEPS: of a stage, of the first and the last
# one. SEQUENCES: to be scored at each length (default 16). SET: more settings, e.g. SET="model.input_channels=128".
set -eu
cd "$(dirname "$0")/.."
perceiver=${1:-build}/perceiver
longest=${2:-131072}
first_steps=${FIRST_STEPS:-1500}
steps=${STEPS:-300}
last_steps=${LAST_STEPS:-12000}
sequences=${SEQUENCES:-16}
runs=${RUNS:-runs/copy}

# shape LENGTH: the settings of a stage
shape() {
  latents=$(($1 / 2))
  [ "$latents" -le 1024 ] || latents=1024
  echo "data.copy_length=$1 model.context_length=$1 model.latents=$latents"
}

# settings NAME=VALUE...: as options of the command line
settings() {
  for setting; do printf ' --set %s' "$setting"; done
}

# score RUN LENGTH
score() {
  $perceiver eval "$1" --split validation --max-documents "$sequences" --set "data.copy_length=$2" \
    --set "data.options={positions: centered}" --json |
    tr -d '\n ' | sed 's/.*"accuracy":\([0-9.e-]*\).*/\1/'
}

previous=""
length=32
while [ "$length" -le "$longest" ]; do
  run=$runs/$length
  rm -rf "$run"
  # About half a million tokens a step: the batch shrinks from 64 sequences to 4.
  batch=$((524288 / length))
  [ "$batch" -le 64 ] || batch=64
  stage="$(shape $length) train.batch=$batch"
  stage_steps=$steps
  [ -n "$previous" ] || stage_steps=$first_steps
  [ "$length" -ne "$longest" ] || stage_steps=$last_steps
  stage="$stage train.steps=$stage_steps${previous:+ train.initialize=$previous}"
  $perceiver train configs/copy.yaml --quiet --run "$run" $(settings $stage ${SET:-}) > /dev/null
  echo "length $length: accuracy $(score "$run" $length)"
  previous=$run
  length=$((length * 2))
done

echo "The last model at every length:"
length=32
while [ "$length" -le "$longest" ]; do
  echo "length $length: accuracy $(score "$previous" $length)"
  length=$((length * 2))
done
