#!/bin/sh
# Benchmarks on this machine's GPU, as JSON: attention by our kernels and by cuDNN (where it is installed), and
# one training step of each configuration of configs/bench.   bench/gpu.sh [BUILD_FOLDER] [PEER_SCRIPT]
# PEER_SCRIPT is a Python program that is given the configurations' names and times the same steps with
# PyTorch; it is run in turns with ours, so that both see the same machine.
set -eu
cd "$(dirname "$0")/.."
program=${1:-build}/perceiver
peer=${2:-}
echo "$(date -u +%Y-%m-%d) $(git rev-parse --short HEAD 2> /dev/null || echo 'no commit')"
nvidia-smi --query-gpu=name,driver_version,clocks.sm --format=csv,noheader
# Ours and cuDNN's in turns, with the causal mask of a model and with none.
"$program" --device cuda bench attention
"$program" --device cuda bench attention --kernel portable
for mask in causal none; do
  "$program" --device cuda bench attention --kernel cudnn --mask $mask || echo "no cuDNN figures, mask: $mask"
done
"$program" --device cuda bench attention --mask none
[ -z "$peer" ] || python3 "$peer" attn
for name in imagenet64 copy131k music4k small; do
  "$program" bench train --config "configs/bench/$name.yaml" --steps 10 --warmup 4
  [ -z "$peer" ] || python3 "$peer" "$name"
done
