#!/bin/sh
# The CPU variants keep to themselves (cmake/cpu_variants.cmake):
#   cpu_symbols_test.sh BUILD_FOLDER LIBRARY NM OBJDUMP
# Each one's object defines its kernels and no other global or weak symbol, all have the same kernels, and no other code of the
# library has vector instructions wider than the baseline's.
set -eu
build=$1 library=$2 nm=$3 objdump=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
fail() { echo "FAILED: $*"; failed=1; }

for variant in baseline avx2 avx512; do
  object=$build/perceiver_cpu_$variant.o
  "$nm" --defined-only --extern-only "$object" > "$work/symbols"
  others=$(grep -v " T perceiver_cpu_${variant}_" "$work/symbols" || true)
  [ -z "$others" ] || fail "$object defines more than kernels: $others"
  sed "s/.* T perceiver_cpu_${variant}_//" "$work/symbols" > "$work/$variant"
  [ -s "$work/$variant" ] || fail "$object has no kernels"
  cmp -s "$work/baseline" "$work/$variant" || fail "$variant has other kernels than baseline"
  "$objdump" --disassemble --no-show-raw-insn "$object" > "$work/code"
  case $variant in baseline) wide=no ;; avx2) wide='%ymm' ;; avx512) wide='%zmm' ;; esac
  [ "$wide" = no ] || grep -q "$wide" "$work/code" || fail "$object has no $wide: compiled with the wrong flags"
done

"$objdump" --disassemble --no-show-raw-insn "$library" |
  awk '/file format/ { member = $1 } /%[yz]mm/ && member !~ /^perceiver_cpu_avx/ { wide[member]++ }
    END { for (each in wide) print each, wide[each] }' > "$work/wide"
[ ! -s "$work/wide" ] || fail "wider than the baseline: $(cat "$work/wide")"
exit $failed
