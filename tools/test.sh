#!/bin/sh
# Builds everything and runs all tests.   tools/test.sh [BUILD_FOLDER]   (default: build)
# Packages: tools/install_packages.sh. SANITIZE=address,undefined builds with sanitizers into build-sanitize,
# without CUDA: its tools are in tools/gpu_test.sh.
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
options=""
if [ -n "${SANITIZE:-}" ]; then
  build=${1:-build-sanitize}
  options="-DPERCEIVER_SANITIZE=$SANITIZE -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPERCEIVER_CUDA=OFF"
fi
if command -v ccache > /dev/null; then options="$options -DCMAKE_CXX_COMPILER_LAUNCHER=ccache"; fi
cmake -S . -B "$build" -G Ninja -DPERCEIVER_TESTS=ON $options
ninja -C "$build"
ctest --test-dir "$build" --output-on-failure -j 2
