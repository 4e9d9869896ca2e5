#!/bin/sh
# Imported, exported, loaded by the implementation it came from: the same logits. Skipped (77) where Python's
# packages are missing; PERCEIVER_PEERS_PYTHON names a Python that has them.
#   peers_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

python=${PERCEIVER_PEERS_PYTHON:-python3}
ports=$source/tests/golden/ports
peer() {  # peer PORT SOURCE
  works "import $2" "$program" import "$ports/$2" --out "$work/model.safetensors"
  works "export $1" "$program" export "$work/model.safetensors" --to "$1" --out "$work/$1"
  "$python" "$source/tests/peers/peer_forward.py" "$1" "$work/$1" "$work/peer.safetensors" > "$work/peer_out" 2>&1
  code=$?
  if [ $code -eq 77 ]; then
    echo "skipped: $(tail -1 "$work/peer_out")"
    exit 77
  fi
  [ $code -eq 0 ] || fail "$1: $(tail -3 "$work/peer_out")"
  works "compare $1" "$program" import "$work/$1" --out "$work/again.safetensors" --compare "$work/peer.safetensors"
  prints "row 2: logits differ by at most [0-9.]*e-0[6-9]"
  cmp -s "$work/model.safetensors" "$work/again.safetensors" || fail "$1: another model after export and import"
}
peer krasserm krasserm/clm_c4_style/hf
peer lucidrains lucidrains/base/model.pt
exit $failed
