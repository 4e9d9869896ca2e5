#!/bin/sh
# cpack: Debian packages of a build for any machine; a build for this machine's processor is refused.
#   package_test.sh BUILD_FOLDER SOURCE_FOLDER
set -eu
build=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAILED: $*"; cat "$work/log"; exit 1; }

code=0
(cd "$build" && cpack -B "$work") > "$work/log" 2>&1 || code=$?
if grep -q '^PERCEIVER_NATIVE:BOOL=ON' "$build/CMakeCache.txt"; then
  [ $code -ne 0 ] || fail "a native build is packed"
  grep -q -- "-DPERCEIVER_NATIVE=OFF for packages" "$work/log" || fail "the refusal says something else"
  exit 0
fi
[ $code -eq 0 ] || fail "exit code $code"

# holds PACKAGE PATTERN...: its files, with a dot before each
holds() {
  dpkg-deb --contents "$work/$1"_[0-9]*.deb | awk '{print $6}' > "$work/files"
  package=$1; shift
  for pattern; do grep -q "^./usr/$pattern$" "$work/files" || fail "$package: no $pattern in $(cat "$work/files")"; done
}
depends() { dpkg-deb --field "$work/$1"_[0-9]*.deb Depends | grep -qE "$2" || fail "$1: does not depend on $2"; }

holds perceiver-models share/perceiver/models/chorale.safetensors share/perceiver/models/chorale.md
holds perceiver bin/perceiver share/man/man1/perceiver.1.gz share/bash-completion/completions/perceiver share/doc/perceiver/copyright
depends perceiver 'libyaml-cpp.*libsndfile1|libsndfile1.*libyaml-cpp'
library=$(cd "$work" && ls | sed -n 's/^\(libperceiver[0-9.]*\)_.*deb$/\1/p')
holds "$library" "lib.*/libperceiver.so.[0-9.]*"
depends "$library" 'libdnnl'
holds libperceiver-dev include/perceiver/perceiver.h include/perceiver/version.h "lib.*/libperceiver.so" "lib.*/libperceiver.a" "lib.*/cmake/Perceiver/PerceiverConfig.cmake" "lib.*/pkgconfig/perceiver.pc"
depends libperceiver-dev "$library \\(= "
