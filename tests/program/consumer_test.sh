#!/bin/sh
# Installs the library into a temporary prefix, builds examples/consumer against it as a separate project, and runs it.
#   consumer_test.sh BUILD_FOLDER SOURCE_FOLDER
set -eu
build=$1
source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cmake --install "$build" --prefix "$work/prefix" > /dev/null
for file in bash-completion/completions/perceiver zsh/site-functions/_perceiver fish/vendor_completions.d/perceiver.fish man/man1/perceiver.1; do
  [ -s "$work/prefix/share/$file" ] || { echo "share/$file is not installed"; exit 1; }
done
grep -rlE '#include *[<"](Eigen|yaml-cpp|fmt|nlohmann|spdlog|cuda)' "$work/prefix/include" && { echo "a public header includes a private one"; exit 1; }
cmake -S "$source/examples/consumer" -B "$work/consumer" -DCMAKE_PREFIX_PATH="$work/prefix" > /dev/null
cmake --build "$work/consumer" > /dev/null
"$work/prefix/bin/perceiver" import "$source/tests/golden/rotary_ragged.safetensors" --out "$work/model.safetensors" > /dev/null
"$work/consumer/consumer" "$work/model.safetensors" "To be" > "$work/out"
grep -q "^237763 parameters, [0-9.]* bits per byte$" "$work/out"
[ "$(wc -l < "$source/examples/consumer/main.cpp")" -lt 40 ]
"$work/consumer/consumer" "$work/none" "To be" 2> /dev/null && exit 1
[ $? -eq 2 ]
