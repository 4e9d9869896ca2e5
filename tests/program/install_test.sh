#!/bin/sh
# Installs into a temporary prefix and uses the installation as other projects do: what the shared library exports,
# every program in examples/ with CMake, one of them with the static library and with pkg-config too.
#   install_test.sh BUILD_FOLDER SOURCE_FOLDER
set -eu
build=$1
source=$(cd "$2" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
quiet() { "$@" > "$work/log" 2>&1 || { echo "FAILED: $*"; cat "$work/log"; exit 1; }; }
fail() { echo "FAILED: $*"; exit 1; }

quiet cmake --install "$build" --prefix "$prefix"
for file in bash-completion/completions/perceiver man/man1/perceiver.1.gz fish/vendor_completions.d/perceiver.fish; do
  [ -s "$prefix/share/$file" ] || fail "share/$file is not installed"
done
[ -s "$prefix"/share/zsh/*/_perceiver ] || fail "zsh's completion is not installed"
for name in books chorale emoji; do
  [ "$(cd / && env -u PERCEIVER_MODELS "$prefix/bin/perceiver" models --names | grep -cx $name)" = 1 ] || fail "the model $name is not found where it is installed"
done
grep -rlE '#include *[<"](Eigen|yaml-cpp|fmt|nlohmann|spdlog|cuda)' "$prefix/include" && fail "a public header includes a private one"
libraries=$(dirname "$(find "$prefix" -name libperceiver.a)")

# Exported: what a public header declares, and no more.
nm -DC --defined-only "$libraries/libperceiver.so" | cut -d' ' -f3- > "$work/exports"
grep -q '^perceiver::Model::load(' "$work/exports" || fail "Model::load is not exported"
grep -vE '^((vtable|typeinfo|typeinfo name) for )?perceiver::' "$work/exports" && fail "exported, but not ours"
sed -E 's/^[a-z ]* for //; s/^perceiver::(experimental::)?([A-Za-z_0-9]+).*/\2/' "$work/exports" | sort -u > "$work/names"
while read -r name; do
  grep -rqE "(class|struct|PERCEIVER_API)\>.*\<$name\>" "$prefix/include" || fail "exported, but not public: $(grep -m 1 "$name" "$work/exports")"
done < "$work/names"

# try NAME FOLDER [CMAKE_OPTIONS...]: builds an example as a project of its own, and runs its test in an empty folder
try() {
  name=$1; folder=$2; shift 2
  quiet cmake -S "$source/examples/$name" -B "$folder" -DCMAKE_PREFIX_PATH="$prefix" "$@"
  quiet cmake --build "$folder"
  run "$name" "$folder/$name"
}
# run NAME BINARY
run() {
  [ -f "$source/examples/$1/test.sh" ] || return 0
  rm -rf "$work/empty"; mkdir "$work/empty"
  (cd "$work/empty" && quiet "$source/examples/$1/test.sh" "$2" "$prefix/bin/perceiver" "$work/empty") || exit 1
}
linked() { ldd "$1" | grep -q libperceiver; }

for file in "$source"/examples/*/CMakeLists.txt; do
  name=$(basename "$(dirname "$file")")
  try "$name" "$work/$name"
done
linked "$work/consumer/consumer" || fail "the consumer does not use the shared library"
try consumer "$work/static" -DPerceiver_USE_STATIC_LIBS=ON
linked "$work/static/consumer" && fail "the consumer does not use the static library"

PKG_CONFIG_PATH=$libraries/pkgconfig
export PKG_CONFIG_PATH
main=$source/examples/consumer/main.cpp
[ "$(pkg-config --modversion perceiver)" = "$("$prefix/bin/perceiver" --version | head -1 | cut -d' ' -f2)" ] || fail "perceiver.pc: another version"
quiet g++ -std=c++20 "$main" $(pkg-config --cflags --libs perceiver) "-Wl,-rpath,$libraries" -o "$work/consumer/with_pkg_config"
run consumer "$work/consumer/with_pkg_config"
quiet g++ -std=c++20 "$main" $(pkg-config --cflags --libs --static perceiver | sed 's/-lperceiver/-l:libperceiver.a/') -o "$work/static/with_pkg_config"
linked "$work/static/with_pkg_config" && fail "pkg-config: not the static library"
run consumer "$work/static/with_pkg_config"
