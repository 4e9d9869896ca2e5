#!/bin/sh
# Formats every C++ and CUDA file, or checks that all are formatted.   tools/format.sh [--check]
# Needs clang-format 14: other versions format a few constructs differently.
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
  "") mode=-i ;;
  --check) mode="--dry-run -Werror" ;;
  *) echo "usage: tools/format.sh [--check]" >&2; exit 2 ;;
esac

program=""
for name in clang-format-14 clang-format; do
  case $("$name" --version 2> /dev/null || true) in *"version 14."*) program=$name; break ;; esac
done
if [ -z "$program" ]; then
  echo "tools/format.sh: clang-format 14 is not installed: formatting is not checked" >&2
  [ "$mode" != -i ]
  exit
fi
find include kernels src tools bench tests fuzz examples \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 -P 2 -n 40 "$program" --style=file $mode
