#!/bin/sh
# The Debian packages on a machine that has nothing else: packs a build, makes a fresh Debian with debootstrap, installs the
# packages there with apt, trains and samples, builds examples/consumer in each way that docs/packaging.md names, and removes all
# again. Needs root, debootstrap and the network; prints what it does, and stops at the first thing that fails.
#   tools/package_test.sh BUILD_FOLDER [ROOT]
# BUILD_FOLDER: configured with -DPERCEIVER_NATIVE=OFF -DCMAKE_INSTALL_PREFIX=/usr. ROOT: a fresh system that is there already (as
# debootstrap leaves it); it is changed. Both of this machine's distribution and release, since the packages are.
set -eu
build=$1
source=$(cd "$(dirname "$0")/.." && pwd)
[ "$(id -u)" -eq 0 ] || { echo "needs root, for debootstrap and chroot" >&2; exit 2; }
# What is mounted below vanishes with this process.
[ -n "${PACKAGE_TEST_MOUNTS:-}" ] || PACKAGE_TEST_MOUNTS=1 exec unshare --mount "$0" "$@"

work=$(mktemp -d)
trap 'umount "$work/root/proc" 2> /dev/null || true; rm -rf --one-file-system "$work"' EXIT
root=${2:-$work/root}
step() { echo "== $*"; }
quiet() { "$@" > "$work/log" 2>&1 || { echo "FAILED: $*"; cat "$work/log"; exit 1; }; }
inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }

step "Packing $build"
(cd "$build" && quiet cpack -B "$work/packages")
for package in "$work"/packages/*.deb; do
  dpkg-deb --show --showformat='${Package} ${Version} ${Architecture}, installed ${Installed-Size} KiB: ${Depends}\n' "$package"
done

if [ $# -lt 2 ]; then
  step "A fresh system"
  quiet debootstrap --variant=minbase "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root"
fi
mount -t proc proc "$root/proc"
mkdir -p "$root/packages" "$root/source/tests" "$root/work"
cp "$work"/packages/*.deb "$root/packages"
cp -r "$source/examples" "$source/configs" "$root/source"
cp -r "$source/tests/golden" "$root/source/tests"
cat "$source/README.md" "$source"/docs/*.md > "$root/work/text.txt"
quiet inside apt-get update

# install PACKAGE...: names, or the beginnings of files in /packages
install() {
  names=""
  for name; do
    case $name in /*) name=$(inside sh -c "echo ${name}_[0-9]*.deb") ;; esac
    names="$names $name"
  done
  quiet inside apt-get install -y --no-install-recommends $names
}
in_work() { inside sh -ec "cd /work; $1"; }

step "The program"
install /packages/perceiver
in_work 'perceiver --version; perceiver help > /dev/null; test -s /usr/share/man/man1/perceiver.1.gz || echo "(no manual page: this system leaves them out)"'
in_work 'perceiver train /source/configs/quickstart.yaml --run run --set data.train=text.txt --set train.steps=50 --set schedule.warmup_steps=10'
in_work 'perceiver eval --checkpoint run --split validation --max-documents 2'
in_work 'perceiver sample --checkpoint run --prompt "The " --tokens 100 --temperature 0.8 --seed 1'

install /packages/perceiver-models
in_work 'perceiver models && perceiver sample books --prompt "It was" --tokens 50 && perceiver sample chorale --tokens 100 --out piece.mid'

library=$(cd "$work/packages" && ls | sed -n 's/^\(libperceiver[0-9.]*\)_.*deb$/\1/p')
# consumer BINARY: its own test
consumer() {
  quiet in_work "rm -rf empty; mkdir empty; /source/examples/consumer/test.sh $1 /usr/bin/perceiver /work/empty"
  echo "$1: ran"
}
step "The shared library, with CMake and with pkg-config"
install "/packages/$library" /packages/libperceiver-dev g++ cmake make pkg-config
quiet in_work 'cmake -S /source/examples/consumer -B shared && cmake --build shared'
quiet in_work 'g++ -std=c++20 /source/examples/consumer/main.cpp $(pkg-config --cflags --libs perceiver) -o shared/with_pkg_config'
in_work 'ldd shared/consumer shared/with_pkg_config | grep libperceiver'
consumer /work/shared/consumer
consumer /work/shared/with_pkg_config

step "The static library: with what libperceiver-dev suggests"
suggested=$(dpkg-deb --field "$work"/packages/libperceiver-dev_*.deb Suggests | tr -d ',')
install $suggested
quiet in_work 'cmake -S /source/examples/consumer -B static -DPerceiver_USE_STATIC_LIBS=ON && cmake --build static'
quiet in_work "g++ -std=c++20 /source/examples/consumer/main.cpp \$(pkg-config --cflags --libs --static perceiver | sed 's/-lperceiver/-l:libperceiver.a/') -o static/with_pkg_config"
in_work 'ldd static/consumer static/with_pkg_config' | grep libperceiver && { echo "FAILED: not the static library"; exit 1; }
consumer /work/static/consumer
consumer /work/static/with_pkg_config

step "Removing"
quiet inside apt-get purge -y perceiver perceiver-models "$library" libperceiver-dev
left=$(find "$root/usr" "$root/etc" "$root/var/lib/dpkg/info" -name '*[pP]erceiver*')
[ -z "$left" ] || { echo "FAILED: left behind: $left"; exit 1; }
echo "Nothing is left behind"
