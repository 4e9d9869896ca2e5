#!/bin/bash
# Several processes carry out one command: how they start, what they say, how they end.
#   ranks_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

head -c 20000 "$source/docs/model.md" > "$work/text.txt"
cd "$work" || exit 1
small=("$source/configs/quickstart.yaml" --set data.train=text.txt --set model.context_length=64 --set model.latents=16
  --set model.input_channels=16 --set model.layers=1 --set train.batch=4 --set eval.max_documents=1 --set threads=1
  --device cpu --set train.log_every=20 --set train.max_minutes=5)
endless=("$program" train "${small[@]}" --set train.steps=100000000 --quiet)

# one_line CODE PATTERN: the ranks' last run ended with this code and one line of ours
one_line() {
  [ "$got" -eq "$1" ] || fail "exit code $got, not $1: $(cat err)"
  [ "$(grep -c '^perceiver: ' err)" -eq 1 ] || fail "not one line: $(cat err)"
  grep -q "^perceiver: error: .*$2" err || fail "expected '$2' in: $(cat err)"
}
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'; }
# as_ranks SIZE COMMAND...: with the variables of torchrun
as_ranks() {
  size=$1; shift
  export WORLD_SIZE=$size MASTER_ADDR=localhost MASTER_PORT=$(free_port)
  : > err; got=0; ranks=()
  for ((rank = 0; rank < size; ++rank)); do RANK=$rank "$@" >> out 2>> err & ranks+=($!); done
  for each in "${ranks[@]}"; do wait "$each"; code=$?; [ $code -eq 0 ] || got=$code; done
  unset WORLD_SIZE MASTER_ADDR MASTER_PORT
}

refuses 2 "RANK is set but WORLD_SIZE is not" env RANK=0 "$program" train "${small[@]}"
refuses 2 "this process does not know its rank" "$program" train "${small[@]}" --rendezvous a:1
refuses 2 "does not compute on several GPUs" "$program" info --devices --gpus 2
refuses 2 "neither a number of GPUs nor" "$program" train "${small[@]}" --gpus some
refuses 2 "contradict each other" "$program" train "${small[@]}" --gpus 1
refuses 2 "leave it out under torchrun" env RANK=0 WORLD_SIZE=1 MASTER_ADDR=localhost MASTER_PORT=1 "$program" train "${small[@]}" --gpus 1
refuses 2 "there \(is no NVIDIA GPU\|are\|is\)" "$program" train nothing.yaml --gpus 1000
works "devices" "$program" info --devices; prints "CPU threads"; prints "this process is alone"

# An error of all ranks, and what rank 0 does alone.
as_ranks 3 "$program" train nothing.yaml; one_line 2 "cannot open 'nothing.yaml'"
as_ranks 3 "$program" train --nothing; one_line 2 "config is required"
as_ranks 3 "$program" config nothing.yaml; one_line 2 "cannot open 'nothing.yaml'"
: > out; as_ranks 3 "$program" --version; [ $got -eq 0 ] || fail "version: $got"
: > out; as_ranks 3 "$program" info --devices; [ "$(grep -c '^CPU threads' out)" -eq 1 ] || fail "said by all: $(cat out)"

# Ranks that are missing, or differ.
RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=$(free_port) "$program" train "${small[@]}" --start-timeout 1 2> err; got=$?
one_line 1 "rank 1 did not appear within 1 s"
RANK=1 WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=$(free_port) "$program" train "${small[@]}" --start-timeout 1 2> err; got=$?
one_line 1 "rank 1: rank 0 was not found within"
as_ranks 2 "$program" train "${small[@]}" --run x; one_line 2 "ranks on CPUs need MPI"

if ! "$program" info --devices | grep -q '^MPI *built in' || ! command -v mpirun > /dev/null; then exit $failed; fi
# Open MPI asks for these where tests run as root, or on fewer processors than ranks.
export OMPI_MCA_btl_vader_single_copy_mechanism=none  # for containers that forbid process_vm_readv
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
mpi() { mpirun -n "$@" > out 2> err; got=$?; }
# none_left: of the ranks that `start` started
none_left() {
  for each in $processes; do
    for ((i = 0; i < 50; ++i)); do grep -qs '^State:[[:space:]]*[^Z[:space:]]' "/proc/$each/status" || continue 2; sleep 0.1; done
    fail "rank with pid $each is left"
  done
}
# A run that is left alone until it trains; `leader` is its rank 0, `victim` its rank 1.
start() {
  rm -rf run
  mpirun -n 3 "${endless[@]}" --run run "$@" > out 2> err & launcher=$!
  for ((i = 0; i < 300; ++i)); do [ -s run/metrics.jsonl ] && break; sleep 0.1; done
  [ -s run/metrics.jsonl ] || fail "the run did not start: $(cat err)"
  processes=$(pgrep -P $launcher)
  leader=$(sed -n 1p <<< "$processes")
  victim=$(sed -n 2p <<< "$processes")
}

mpi 2 "$program" train "${small[@]}" --set train.steps=40 --run two
[ $got -eq 0 ] || fail "two ranks: $(cat err)"
prints two/checkpoints/step-000000040
[ "$(grep -c '^step 40/40' err)" -eq 1 ] || fail "progress of every rank: $(cat err)"
mpi 2 "$program" train "${small[@]}" --set train.steps=40 --run two; one_line 2 "already holds a run"

start; kill -KILL "$victim"; wait $launcher; got=$?
[ $got -ne 0 ] || fail "a killed rank went unnoticed"
one_line $got "rank 1 (host .*) ended without a message .*; no checkpoint was written yet: start over with --resume"
none_left

start --set checkpoint.every=5
for ((i = 0; i < 300; ++i)); do ls run/checkpoints/step-*[0-9] > /dev/null 2>&1 && break; sleep 0.1; done
kill -KILL "$victim"; wait $launcher; got=$?
one_line $got "rank 1 (host .*) ended without a message .*; the checkpoint of step [0-9]* is intact: continue with --resume"
none_left

start --collective-timeout 5; kill -STOP "$victim"; wait $launcher; got=$?
one_line 1 "rank 1 (host .*) has not been heard of\|rank 1 (host .*), last in .*, has not been heard of"
none_left

start --collective-timeout 5; kill -STOP "$leader"; wait $launcher; got=$?
one_line 1 "rank 0 (host .*) has not been heard of"
none_left

start; kill -TERM "$victim"; wait $launcher; got=$?
[ $got -eq 0 ] || fail "a rank asked to stop: exit code $got: $(cat err)"
[ "$(ls run/checkpoints | wc -l)" -eq 1 ] || fail "saved: $(ls run/checkpoints)"

# Losses do not depend on the number of ranks, nor on how the context is shared, nor on where a run was resumed.
losses() { sed -n 's/.*"step":\([0-9]*\),"loss":\([0-9.]*\),.*/\1 \2/p' "$1/metrics.jsonl"; }
# near RUN: its losses are those of the run `alone`
near() {
  paste -d ' ' <(losses alone) <(losses "$1") | awk '{ d = $2 - $4; if ($1 != $3 || d > 1e-4 || d < -1e-4) exit 1 } END { exit NR < 3 }' ||
    fail "losses of $1: $(losses "$1" | tr '\n' ' ') instead of $(losses alone | tr '\n' ' ')"
}
steps=("$program" train "${small[@]}" --set train.log_every=10 --set schedule.warmup_steps=5 --set schedule.decay_steps=40)
works "a run alone" "${steps[@]}" --set train.steps=40 --run alone
for each in 1:1 2:2 3:1 4:2 4:4; do
  mpi "${each%:*}" "${steps[@]}" --set train.steps=40 --set train.context_shards="${each#*:}" --run "r$each"
  [ $got -eq 0 ] || fail "$each: $(cat err)"
  near "r$each"
done
for each in 2:10:none 3:20:optimizer 1:30:gradients 4:40:gradients; do
  IFS=: read -r count until shard <<< "$each"
  mpi "$count" "${steps[@]}" --set train.steps="$until" --set train.shard="$shard" --run moving --resume
  [ $got -eq 0 ] || { [ "$until" -eq 10 ] && mpi "$count" "${steps[@]}" --set train.steps=10 --set train.shard="$shard" --run moving; }
  [ $got -eq 0 ] || fail "$each: $(cat err)"
done
near moving
works "evaluation alone" "$program" eval alone --split validation --device cpu --json
grep -v tokens_per_second out > one.json
for each in 2:2 3:1 4:2; do
  mpi "${each%:*}" "$program" eval alone --split validation --device cpu --json --context-shards "${each#*:}"
  awk -F '[:,]' 'NR == FNR { a[FNR] = $2; next } /nats_per_token/ { d = $2 - a[FNR]; if (d > 1e-5 || d < -1e-5) exit 1; found = 1 } END { exit !found }' one.json <(grep -v tokens_per_second out) ||
    fail "evaluation $each: $(cat out) instead of $(cat one.json)"
done
works "a sample alone" "$program" sample alone --prompt "a model of" --tokens 30 --count 2 --device cpu
mv out sampled
for shards in 1 3; do
  mpi 3 "$program" sample alone --prompt "a model of" --tokens 30 --count 2 --device cpu --context-shards $shards
  cmp -s out sampled || fail "samples with --context-shards $shards: $(cat out err) instead of $(cat sampled)"
done
mpi 3 "$program" sample alone --context-shards 2; one_line 2 "all ranks share the contexts"
mpi 3 "${steps[@]}" --set train.context_shards=2 --run bad; one_line 2 "does not divide the number of ranks"
mpi 3 "${steps[@]}" --set train.batch=2 --run bad; one_line 2 "too few for 3 ranks"
mpirun -n 1 "${steps[@]}" --run bad : -n 1 "${steps[@]}" --set model.layers=2 --run bad > out 2> err; got=$?
one_line 2 "rank 1 has another configuration than rank 0: .*layers: 2.* instead of .*layers: 1"
if "$program" info --devices | grep -q '^CPU kernels .* of baseline, '; then
  mpirun -n 1 "${steps[@]}" --run bad : -n 1 env PERCEIVER_CPU=baseline "${steps[@]}" --run bad > out 2> err; got=$?
  one_line 2 "the ranks differ in the CPU kernels .*rank 1 has baseline"
fi

start; kill -TERM $launcher; wait $launcher
[ "$(ls run/checkpoints | wc -l)" -eq 1 ] || fail "saved: $(ls run/checkpoints)"
none_left
exit $failed
