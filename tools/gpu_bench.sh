#!/bin/sh
# Benchmarks on this machine's GPU: attention shapes and one training step of each configuration of
# configs/bench, as JSON.   tools/gpu_bench.sh [BUILD_FOLDER] [PEER_SCRIPT]
# PEER_SCRIPT is a Python program that is given the configurations' names and times the same steps with
# PyTorch; it is run in turns with ours, so that both see the same machine.
set -eu
cd "$(dirname "$0")/.."
program=${1:-build}/perceiver
peer=${2:-}
nvidia-smi --query-gpu=name,driver_version,clocks.sm --format=csv,noheader
"$program" --device cuda bench attention
[ -z "$peer" ] || python3 "$peer" attn
for name in imagenet64 copy131k music4k small; do
  "$program" bench train --config "configs/bench/$name.yaml" --steps 10 --warmup 4
  [ -z "$peer" ] || python3 "$peer" "$name"
done
