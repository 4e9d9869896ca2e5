#!/bin/sh
# From a fresh Debian or Ubuntu to a trained model and its own text: installs what is needed, builds, trains a small model on
# the King James Bible (the Debian package bible-kjv) for about two minutes, scores it on unseen text and samples from it.
#   tools/quickstart.sh [TEXT_FILE]      (your own text instead)
set -eu
cd "$(dirname "$0")/.."
tools/install_packages.sh
cmake -S . -B build -G Ninja > /dev/null
ninja -C build perceiver_program

text=${1:-}
if [ -z "$text" ]; then
  text=data/bible.txt
  if [ ! -s "$text" ]; then
    root=""
    [ "$(id -u)" -eq 0 ] || root="sudo"
    command -v bible > /dev/null || DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends bible-kjv bible-kjv-text
    mkdir -p data
    bible -f gen1:1-rev22:21 > "$text.part"
    mv "$text.part" "$text"
  fi
fi

run=runs/quickstart
rm -rf "$run"
build/perceiver train configs/quickstart.yaml --set data.train="$text" --run "$run"

echo
echo "Bits per byte that the frequencies of single bytes alone would give (order-0 entropy):"
od -An -v -tu1 -w1 "$text" | sort | uniq -c | awk '{ n[NR] = $1; t += $1 } END { for (i in n) h -= n[i] / t * log(n[i] / t) / log(2); printf "%.3f\n", h }'
echo "The model on the text it has not seen:"
build/perceiver eval --checkpoint "$run" --split validation --max-documents 8
echo
echo "A sample:"
build/perceiver sample --checkpoint "$run" --prompt "And the LORD said" --tokens 400 --temperature 0.8 --top-p 0.95 --seed 1
