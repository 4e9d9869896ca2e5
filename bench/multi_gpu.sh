#!/bin/sh
# Training steps on several GPUs of this machine; prints JSON lines.
#   bench/multi_gpu.sh [BUILD_FOLDER] [overhead|alone|scaling|context|pytorch]...      (default: build, all)
# overhead: the step alone and over a communicator of one rank. alone: the step of each GPU by itself, all at the same
# time; what several reach together is to be measured against the slowest. scaling: configs/bench on 1, 2, 4, … GPUs, the
# batch of the configuration on each (weak), and that batch in all (strong, where it divides); then all GPUs with NCCL
# alone, and with an algorithm of its choice. context: long contexts over all GPUs.
# pytorch: DistributedDataParallel, where PYTHON (default: python3) has PyTorch. CONFIGS selects configurations.
set -eu
cd "$(dirname "$0")/.."
program=${1:-build}/perceiver
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- overhead alone scaling context pytorch
configs=${CONFIGS:-imagenet64 copy131k music4k small}
gpus=$(nvidia-smi -L | wc -l)
results=$(mktemp -d)
trap 'rm -rf "$results"' EXIT
python=${PYTHON:-python3}
export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-0}

# step NAME RANKS BATCH [OPTIONS...]: RANKS 0 is the program without ranks
step() {
  config=configs/bench/$1.yaml examples=$3
  start=""
  [ "$2" -eq 0 ] || start="--gpus $2"
  shift 3
  "$program" bench train --config "$config" --steps 10 --warmup 4 --set train.batch="$examples" "$@" $start |
    tr -d '\n' | tr -s ' '
  echo
}
batch_of() { sed -n 's/^  batch: //p' "configs/bench/$1.yaml"; }

overhead() {
  for name in $configs; do
    for repeat in 1 2; do
      step "$name" 0 "$(batch_of "$name")"
      step "$name" 1 "$(batch_of "$name")"
    done
    step "$name" 1 "$(batch_of "$name")" --set train.shard=none
  done
}

alone() {
  for name in $configs; do
    gpu=0
    while [ "$gpu" -lt "$gpus" ]; do
      CUDA_VISIBLE_DEVICES=$gpu step "$name" 0 "$(batch_of "$name")" > "$results/$gpu" &
      gpu=$((gpu + 1))
    done
    wait
    cat "$results"/*
  done
}

scaling() {
  for name in $configs; do
    batch=$(batch_of "$name")
    ranks=1
    while [ "$ranks" -le "$gpus" ]; do
      step "$name" "$ranks" $((batch * ranks))
      [ "$ranks" -eq 1 ] || [ $((batch % ranks)) -ne 0 ] || step "$name" "$ranks" "$batch"
      ranks=$((2 * ranks))
    done
    for deterministic in true false; do
      PERCEIVER_PEER_COPIES=0 step "$name" "$gpus" $((batch * gpus)) --set train.deterministic_reduction=$deterministic
    done
  done
}

context() {
  for length in 131072 1048576 4194304; do
    shards=1
    while [ "$shards" -le "$gpus" ]; do
      step copy131k "$shards" 1 --set model.context_length=$length --set train.context_shards=$shards || true
      shards=$((2 * shards))
    done
  done
}

pytorch() {
  "$python" -c 'import torch' 2> /dev/null || { echo "$python has no PyTorch: no figures of it" >&2; return 0; }
  for name in $configs; do
    "$python" bench/pytorch/train.py "$name"
    [ "$gpus" -eq 1 ] || "$python" -m torch.distributed.run --nproc-per-node "$gpus" bench/pytorch/train.py "$name"
  done
}

echo "$(date -u +%Y-%m-%d) $(git rev-parse --short HEAD 2> /dev/null || echo 'no commit')"
nvidia-smi --query-gpu=name,driver_version,clocks.sm --format=csv,noheader
for part in "$@"; do
  case $part in
    overhead | alone | scaling | context | pytorch) $part ;;
    *) echo "unknown benchmark '$part': overhead, alone, scaling, context or pytorch" >&2; exit 2 ;;
  esac
done
