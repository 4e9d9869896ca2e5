#!/bin/sh
# Runs the GPU tests of a built tree, then training, evaluation and sampling of a small model, also by two ranks that
# share the GPU (if there is mpirun), then the kernel tests under compute-sanitizer.
#   tools/gpu_test.sh [BUILD_FOLDER] [RACECHECK_FOLDER]      (default: build build-racecheck)
# SANITIZE=memcheck,initcheck,racecheck selects the sanitizer's tools; SANITIZE=none skips them, SANITIZE_ONLY=1 skips
# everything else. Under the sanitizer tests use smaller shapes (PERCEIVER_BRIEF_TESTS) and are split among SHARDS
# processes per tool (default 4).
#
# racecheck needs a build of its own: it understands that a barrier in shared memory orders a thread's accesses before
# its arrival against those of another thread after its wait, but not that __syncwarp lets one lane arrive for all.
#   cmake -S . -B build-racecheck -DPERCEIVER_RACECHECK=ON && cmake --build build-racecheck -j
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
racecheck_build=${2:-build-racecheck}
tests=tests/perceiver_gpu_tests
export PERCEIVER_GOLDEN_DIR="${PERCEIVER_GOLDEN_DIR:-$PWD/tests/golden}"
export PERCEIVER_PORTS_DIR="${PERCEIVER_PORTS_DIR:-$PWD/tests/golden/ports}"
command -v nvidia-smi > /dev/null || { echo "no NVIDIA driver on this machine" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
logs=$(mktemp -d)
trap 'rm -rf "$logs"' EXIT

small_model() {
  text=$logs/text.txt
  cat README.md include/perceiver/*.h src/*/*.cpp > "$text"
  precisions="bfloat16 float32 tf32"
  # Compute capability 8.9 and later have 8-bit tensor cores.
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
  [ "$capability" -lt 89 ] || precisions="$precisions fp8"
  for precision in $precisions; do
    echo "training, evaluation and a sample after training in $precision"
    "$build/perceiver" --device cuda train configs/tinyshakespeare.yaml --run "$logs/$precision" \
      --set data.train="$text" --set train.steps=40 --set train.log_every=20 --set eval.every=20 \
      --set eval.max_documents=1 --set train.precision="$precision"
    "$build/perceiver" --device cuda eval --checkpoint "$logs/$precision" --split validation --max-documents 1 \
      > "$logs/eval.$precision"
    sed -n 3p "$logs/eval.$precision"
    "$build/perceiver" --device cuda sample --checkpoint "$logs/$precision" --prompt "The " --tokens 32 \
      > "$logs/sample.$precision"
  done
}

# Two ranks on one GPU, which NCCL does not allow: copy engines make the large sums and gathers, as between GPUs of a
# host, and MPI carries the rest through pinned memory.
shared_gpu() {
  if ! "$build/perceiver" info --devices | grep -q '^MPI *built in' || ! command -v mpirun > /dev/null; then
    echo "skipped: two ranks on one GPU need mpirun and a build with MPI"
    return
  fi
  export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_vader_single_copy_mechanism=none
  CUDA_VISIBLE_DEVICES=0 mpirun --oversubscribe -n 2 "$build/tests/mpi_collectives" cuda
  for ranks in 1 2; do
    echo "training in float32, $ranks ranks on one GPU"
    CUDA_VISIBLE_DEVICES=0 mpirun --oversubscribe -n "$ranks" "$build/perceiver" --device cuda train \
      configs/quickstart.yaml --run "$logs/ranks.$ranks" --quiet --set data.train="$text" --set train.steps=40 \
      --set train.max_minutes=0 --set train.log_every=1 --set eval.max_documents=1 --set train.precision=float32 \
      > "$logs/ranks.log"
  done
  tools/compare_losses.py "$logs/ranks.1" "$logs/ranks.2" 1e-4
  grep -q 'copy engines"' "$logs/ranks.2/environment.jsonl" || { echo "no copy engines were used" >&2; exit 1; }
}

if [ -z "${SANITIZE_ONLY:-}" ]; then
  "$build/$tests" --gtest_brief=1
  small_model
  shared_gpu
fi

sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
tools=${SANITIZE:-memcheck,initcheck,racecheck}
[ "$tools" != none ] || exit 0
shards=${SHARDS:-4}
# The tests of tests/kernels/cuda, whose suites are named Cuda*, without those that compare repeated runs, the largest
# shapes, and cuDNN, which is not ours.
kernels='Cuda*:-*Repeat*:*SameBits*:*ScratchForManyQueries:CudaCudnn*:CudaLarge*'
export PERCEIVER_BRIEF_TESTS=1 GTEST_TOTAL_SHARDS="$shards"
started=$(date +%s)
running=""
for tool in $(echo "$tools" | tr , ' '); do
  checked=$build/$tests
  [ "$tool" != racecheck ] || checked=$racecheck_build/$tests
  [ -x "$checked" ] || { echo "$checked is missing: see the top of tools/gpu_test.sh" >&2; exit 1; }
  shard=0
  while [ "$shard" -lt "$shards" ]; do
    GTEST_SHARD_INDEX=$shard "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 10 \
      "$checked" --gtest_brief=1 --gtest_filter="$kernels" > "$logs/$tool.$shard" 2>&1 &
    running="$running $!:$tool.$shard"
    shard=$((shard + 1))
  done
done
failed=""
for part in $running; do
  wait "${part%%:*}" || { failed="$failed ${part#*:}"; tail -40 "$logs/${part#*:}"; }
done
for tool in $(echo "$tools" | tr , ' '); do
  echo "compute-sanitizer --tool $tool, $(cat "$logs/$tool".* | grep -c 'ERROR SUMMARY: 0 errors\|RACECHECK SUMMARY: 0 hazards') of $shards parts clean"
done
echo "compute-sanitizer: $(($(date +%s) - started)) s"
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }
