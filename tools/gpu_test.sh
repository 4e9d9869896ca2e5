#!/bin/sh
# Runs the GPU tests of a built tree on this machine's GPU, then the kernel tests under compute-sanitizer.
#   tools/gpu_test.sh [BUILD_FOLDER]      (default: build; tools/test.sh builds it)
# SANITIZE=memcheck,racecheck,initcheck chooses the sanitizer's tools; SANITIZE=none leaves them out.
set -eu
cd "$(dirname "$0")/.."
tests=${1:-build}/tests/perceiver_tests
export PERCEIVER_GOLDEN_DIR="${PERCEIVER_GOLDEN_DIR:-$PWD/tests/golden}"
command -v nvidia-smi > /dev/null || { echo "no NVIDIA driver on this machine" >&2; exit 1; }
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
"$tests" --gtest_brief=1 --gtest_filter='Cuda*:Gpu*:*OnTheGpu'

sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
tools=${SANITIZE:-memcheck,racecheck,initcheck}
[ "$tools" != none ] || exit 0
for tool in $(echo "$tools" | tr , ' '); do
  echo "compute-sanitizer --tool $tool"
  "$sanitizer" --tool "$tool" --error-exitcode 9 --print-limit 10 \
    "$tests" --gtest_brief=1 --gtest_filter='Cuda*:-*Repeat*'
done
