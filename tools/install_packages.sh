#!/bin/sh
# Installs the build dependencies on Debian 12, Ubuntu 24.04 or later.   tools/install_packages.sh [MORE_PACKAGES...]
set -eu
packages="g++ cmake ninja-build libeigen3-dev libyaml-cpp-dev nlohmann-json3-dev libcpp-httplib-dev libfmt-dev libcli11-dev libspdlog-dev libdnnl-dev ocl-icd-opencl-dev libxxhash-dev libpng-dev libjpeg-dev libsndfile1-dev libmpg123-dev libsamplerate0-dev libsentencepiece-dev libminizip-dev zlib1g-dev libopenmpi-dev openmpi-bin libgtest-dev libgmock-dev pkg-config $*"
missing=""
for package in $packages; do
  dpkg-query -W -f='${Status}' "$package" 2> /dev/null | grep -q "install ok installed" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
root=""
[ "$(id -u)" -eq 0 ] || root="sudo"
$root apt-get update -qq
DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends $missing
