#!/bin/sh
# Runs clang-tidy (.clang-tidy) over the C++ files given, or over all of them: about half an hour of processor time.
# CUDA files are left out.   tools/tidy.sh [FILES...]      JOBS=2 files at a time
set -eu
cd "$(dirname "$0")/.."
# Compile commands of its own, without precompiled headers, which are GCC's.
build=build-tidy
cmake -S . -B $build -DPERCEIVER_TESTS=ON -DCMAKE_DISABLE_PRECOMPILE_HEADERS=ON > /dev/null
if [ $# -eq 0 ]; then
  set -- $(sed -n 's|^ *"file": "'"$PWD"'/\(.*[.]cpp\)".*|\1|p' $build/compile_commands.json | sort -u)
fi
printf '%s\n' "$@" | xargs -P "${JOBS:-2}" -n 1 clang-tidy -p $build --quiet
