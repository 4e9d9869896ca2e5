#!/bin/sh
# Runs clang-tidy (.clang-tidy) over C++ files: those given, or all that the build compiles. CUDA files are left out.
#   tools/tidy.sh [FILES...]      BUILD=build: a configured build folder with compile_commands.json; JOBS: default 2
# All files take about half an hour of processor time.
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
[ -f "$build/compile_commands.json" ] || { echo "$build/compile_commands.json is missing: configure first, cmake -S . -B $build" >&2; exit 1; }
if [ $# -eq 0 ]; then
  set -- $(sed -n 's|^ *"file": "'"$PWD"'/\(.*[.]cpp\)".*|\1|p' "$build/compile_commands.json" | sort -u)
fi
printf '%s\n' "$@" | xargs -P "${JOBS:-2}" -n 1 clang-tidy -p "$build" --quiet
