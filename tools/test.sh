#!/bin/sh
# Checks format and layers, builds everything and runs all tests.   tools/test.sh [BUILD_FOLDER]   (default: build)
# Packages: tools/install_packages.sh. Without a GPU its tests are skipped; tools/gpu_test.sh does more with one.
# SANITIZE=address,undefined builds with sanitizers, into build-sanitize and without CUDA, whose sanitizers
# tools/gpu_test.sh runs. Some of the tests: ctest --test-dir build -L cpu (gpu, program, slow; -LE leaves out).
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
options=""
if [ -n "${SANITIZE:-}" ]; then
  build=${1:-build-sanitize}
  options="-DPERCEIVER_SANITIZE=$SANITIZE -DCMAKE_BUILD_TYPE=RelWithDebInfo -DPERCEIVER_CUDA=OFF"
fi
# A new folder is built several files at a time, which takes half as long and is how tools/quickstart.sh builds; one that you
# configured stays as it is.
[ -f "$build/CMakeCache.txt" ] || options="$options -DPERCEIVER_UNITY=ON"
if command -v ccache > /dev/null; then
  options="$options -DCMAKE_CXX_COMPILER_LAUNCHER=ccache"
  export CCACHE_SLOPPINESS="${CCACHE_SLOPPINESS:-pch_defines,time_macros}"  # without, nothing with precompiled headers is cached
fi
# What the server's and the report's pages looked like, where there is a browser.
case $build in /*) folder=$build ;; *) folder=$PWD/$build ;; esac
export PERCEIVER_SCREENSHOTS="${PERCEIVER_SCREENSHOTS:-$folder/screenshots}"
tools/format.sh --check
tools/check_layers.sh
cmake -S . -B "$build" -G Ninja -DPERCEIVER_TESTS=ON $options
ninja -C "$build"
ctest --test-dir "$build" --output-on-failure -j 2
