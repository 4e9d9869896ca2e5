#!/bin/sh
# Builds the fuzz targets with clang and runs each for RUNS executions.
#   tools/fuzz.sh [RUNS] [TARGET...]      (default: 1000000 executions of every target)
# The corpus is kept in build-fuzz/corpus/TARGET; a finding stops the script and prints the input's file name.
set -eu
cd "$(dirname "$0")/.."
runs=${1:-1000000}
[ $# -gt 0 ] && shift
targets=${*:-"fuzz_safetensors fuzz_config fuzz_state fuzz_serve fuzz_torch fuzz_npy fuzz_shard fuzz_sound_chunks fuzz_audio fuzz_midi fuzz_exif fuzz_image"}
build=build-fuzz

cmake -S fuzz -B $build -G Ninja -DCMAKE_CXX_COMPILER=clang++ > $build.log 2>&1 || { cat $build.log; exit 1; }
mv $build.log $build/configure.log
ninja -C $build -j2 $targets

for target in $targets; do
  name=${target#fuzz_}
  case $name in shard | audio) longest=4096 ;; torch) longest=2048 ;; image) longest=1024 ;; *) longest=512 ;; esac
  leaks=1
  [ "$name" = audio ] && leaks=0  # libsndfile 1.2 loses some KiB of each Vorbis file that it cannot open
  corpus=$build/corpus/$target
  mkdir -p "$corpus" "$build/findings"
  echo "$target: $runs executions"
  "$build/$target" "$corpus" "fuzz/seeds/$name" -runs="$runs" -max_len=$longest -dict="fuzz/$name.dict" \
    -artifact_prefix="$build/findings/$name-" -timeout=10 -detect_leaks=$leaks -rss_limit_mb=2048 -print_final_stats=1 -print_funcs=0 -verbosity=0
done
