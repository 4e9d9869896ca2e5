#!/bin/bash
# Runs over NCCL on all GPUs of this machine: losses, repetition, checkpoints, context shards, a killed rank.
#   tools/multi_gpu_test.sh PROGRAM [RANKS]      (default: all GPUs; skipped with a message where there are not two)
set -eu
program=$(realpath "$1")
source=$(realpath "$(dirname "$0")/..")
gpus=$(nvidia-smi -L 2> /dev/null | wc -l)
ranks=${2:-$gpus}
if [ "$gpus" -lt 2 ]; then echo "skipped: there are not two GPUs"; exit 0; fi
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat "$source"/README.md "$source"/docs/*.md > text.txt
failed=0
check() { if "${@:2}"; then echo "ok: $1"; else echo "FAILED: $1"; failed=1; fi; }

# train RUN STEPS [OPTIONS...]
train() {
  run=$1 steps=$2; shift 2
  "$program" train "$source/configs/quickstart.yaml" --set data.train=text.txt --set train.batch=16 --set train.max_minutes=0 \
    --set checkpoint.minutes=0 --set train.log_every=1 --set train.ema_decay=0.9 --set eval.max_documents=1 --device cuda --quiet \
    --set train.steps="$steps" --set schedule.decay_steps=80 --run "$run" "$@" > /dev/null
}
# near A B TOLERANCE: the losses of two runs
near() { python3 "$source/tools/compare_losses.py" "$@"; }
# close A B TOLERANCE: texts that differ only in decimals, by a fraction of each (bf16 sums of other batches round differently)
close() {
  python3 - "$@" << 'END'
import re, sys
DECIMAL = r"\d+\.\d+"
one, other = (open(name).read() for name in sys.argv[1:3])
numbers = zip(re.findall(DECIMAL, one), re.findall(DECIMAL, other))
alike = all(abs(float(x) - float(y)) <= float(sys.argv[3]) * float(x) for x, y in numbers)
sys.exit(0 if alike and re.sub(DECIMAL, "#", one) == re.sub(DECIMAL, "#", other) else 1)
END
}
same() { cmp "$1"/checkpoints/step-*"$3"/model.safetensors "$2"/checkpoints/step-*"$3"/model.safetensors && cmp "$1"/checkpoints/step-*"$3"/optimizer.safetensors "$2"/checkpoints/step-*"$3"/optimizer.safetensors; }

f32="--set train.precision=float32"
train alone 40 $f32
for shard in none optimizer gradients; do
  train $shard 40 $f32 --gpus "$ranks" --set train.shard=$shard
  check "shard $shard on $ranks GPUs: the losses of one" near alone $shard 1e-4
done
for shard in none optimizer gradients; do
  PERCEIVER_PEER_COPIES=0 train nccl_$shard 40 $f32 --gpus "$ranks" --set train.shard=$shard
  check "the same with NCCL alone" near alone nccl_$shard 1e-4
done
train micro 40 $f32 --gpus "$ranks" --set train.shard=gradients --set train.micro_batches=2
check "two micro-batches" near alone micro 1e-4
train shared 40 $f32 --gpus "$ranks" --set train.context_shards="$ranks"
check "the context over $ranks GPUs" near alone shared 1e-4
train table 40 $f32 --gpus "$ranks" --set train.context_shards="$ranks" --set model.context_projection=direct
check "the context over $ranks GPUs, projected directly" near alone table 1e-4
train bf16 40
train bf16_ranks 40 --gpus "$ranks"
check "bf16" near bf16 bf16_ranks 2e-2
train again 40 --gpus "$ranks"
check "the same bits twice" same bf16_ranks again 40
muon="$f32 --set optimizer.type=muon"
train muon 40 $muon
for shard in none optimizer gradients; do
  train muon_$shard 40 $muon --gpus "$ranks" --set train.shard=$shard
  check "muon, shard $shard: the losses of one GPU" near muon muon_$shard 1e-4
done
train muon_moving 20 $muon --gpus "$ranks" --set train.shard=optimizer
train muon_moving 40 $muon --resume
check "muon, $ranks GPUs, then 1: the losses of one" near muon muon_moving 1e-4
train half 20 --gpus "$ranks"
train half 40 --gpus "$ranks" --resume
check "the same bits after a checkpoint" same bf16_ranks half 40
train moving 10 $f32 --gpus "$ranks"
train moving 20 $f32 --resume
train moving 30 $f32 --gpus "$ranks" --resume --set train.shard=gradients
train moving 40 $f32 --gpus "$ranks" --resume --set train.shard=none
check "$ranks GPUs, 1, $ranks, $ranks: the losses of one" near alone moving 1e-4
"$program" eval alone --set data.train=text.txt --split validation > one.txt
"$program" eval alone --set data.train=text.txt --split validation --gpus "$ranks" > all.txt
check "evaluation" close <(grep -v -i second one.txt) <(grep -v -i second all.txt) 1e-3

train killed 1000000 --gpus "$ranks" 2> err & launcher=$!
until [ -s killed/metrics.jsonl ]; do sleep 0.2; done
kill -9 "$(pgrep -P "$(pgrep -P "$launcher")" | tail -1)"  # the shell's child is the launcher, whose children are the ranks
code=0; wait "$launcher" || code=$?
check "a killed rank ends all with one line" test "$code" -ne 0 -a "$(grep -c '^perceiver: ' err)" -eq 1
cat err
exit $failed
