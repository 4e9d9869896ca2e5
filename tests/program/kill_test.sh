#!/bin/bash
# A run that is killed at random times and resumed each time ends as one that was left alone, bit for bit, with
# the default keys of checkpoints except that the clock strikes every few hundredths of a second.
#   kill_test.sh PROGRAM SOURCE_FOLDER [KILLS [SEED]]
. "$2/tests/program/commands.sh"
kills=${3:-5}
RANDOM=${4:-1}

head -c 20000 "$source/docs/model.md" > "$work/text.txt"
# An array, not a function: the process in the background must be the program itself.
train=("$program" train "$source/configs/quickstart.yaml" --set data.train="$work/text.txt" --set model.context_length=64
  --set model.latents=16 --set model.input_channels=16 --set model.layers=1 --set train.batch=2 --set train.max_minutes=0
  --set eval.max_documents=1 --set threads=1 --device cpu --set train.log_every=3 --set checkpoint.minutes=0.0003 --quiet)
# State of a run that must not depend on kills: tensors, and metrics without times.
state() {
  newest=$(ls -d "$1"/checkpoints/step-* | tail -1)
  (cd "$newest" && cksum model.safetensors optimizer.safetensors)
  sed -E 's/"(targets_per_second|inputs_per_second|elapsed|memory_bytes|validation_seconds)":[^,}]*,?//g' "$1/metrics.jsonl"
}

steps=600
begin=$(date +%s%3N)
"${train[@]}" --set train.steps=$steps --run "$work/whole" > /dev/null || fail "the run that is left alone"
duration=$(($(date +%s%3N) - begin))
state "$work/whole" > "$work/whole.state"

killed=0 unsaved=0 runs=0
while [ $killed -lt "$kills" ] && [ $failed -eq 0 ]; do
  runs=$((runs + 1))
  rm -rf "$work/killed"
  while :; do
    resume=; [ -e "$work/killed/config.yaml" ] && resume=--resume
    "${train[@]}" --set train.steps=$steps --run "$work/killed" $resume > "$work/out" 2> "$work/err" & running=$!
    wait_ms=$((RANDOM % duration)); sleep "$((wait_ms / 1000)).$(printf %03d $((wait_ms % 1000)))"
    [ $killed -lt "$kills" ] && kill -KILL $running 2> /dev/null
    wait $running 2> /dev/null; code=$?
    [ $code -eq 0 ] && break
    [ $code -eq 137 ] || { fail "run $runs: exit code $code: $(cat "$work/err")"; break 2; }
    killed=$((killed + 1))
    ls "$work/killed/checkpoints" 2> /dev/null | grep -q '^step-' || unsaved=$((unsaved + 1))
  done
  state "$work/killed" > "$work/killed.state"
  cmp -s "$work/whole.state" "$work/killed.state" || fail "run $runs, after $killed kills: $(diff "$work/whole.state" "$work/killed.state" | head -5)"
done
echo "$killed kills in $runs runs, $unsaved of them before the first checkpoint"
exit $failed
