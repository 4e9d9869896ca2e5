#!/bin/sh
# Benchmarks on this machine's GPU beside PyTorch and cuDNN; prints JSON.
#   bench/gpu.sh [BUILD_FOLDER] [attention|train|decode]...      (default: build, all three)
# PyTorch is measured where PYTHON (default: python3) has it (bench/pytorch); PYTHON=none skips it. The two programs
# alternate, so that both see the same machine.
set -eu
cd "$(dirname "$0")/.."
program=${1:-build}/perceiver
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- attention train decode
python=${PYTHON:-python3}
if [ "$python" != none ] && ! "$python" -c 'import torch' 2> /dev/null; then
  echo "$python has no PyTorch: no figures of it" >&2
  python=none
fi

# pytorch SCRIPT ARGUMENTS...
pytorch() {
  [ "$python" = none ] || "$python" "bench/pytorch/$@"
}

attention() {
  "$program" --device cuda bench attention
  "$program" --device cuda bench attention --kernel portable
  for mask in causal none; do
    "$program" --device cuda bench attention --kernel cudnn --mask $mask || echo "no cuDNN figures, mask: $mask"
  done
  "$program" --device cuda bench attention --mask none
  pytorch train.py attention
}

train() {
  for name in imagenet64 copy131k music4k small transformer2k; do
    "$program" bench train --config "configs/bench/$name.yaml" --steps 10 --warmup 4
    pytorch train.py $name
  done
}

decode() {
  for name in copy131k music4k imagenet64; do
    for kept in keys tokens; do
      "$program" bench decode --config "configs/bench/$name.yaml" --tokens 100 --context-as $kept --batch 1,8,64 ||
        echo "no figures of $name, context kept as $kept"
    done
    pytorch decode.py $name --batch 1,8,64
  done
}

echo "$(date -u +%Y-%m-%d) $(git rev-parse --short HEAD 2> /dev/null || echo 'no commit')"
nvidia-smi --query-gpu=name,driver_version,clocks.sm --format=csv,noheader
for part in "$@"; do
  case $part in
    attention | train | decode) $part ;;
    *) echo "unknown benchmark '$part': attention, train or decode" >&2; exit 2 ;;
  esac
done
