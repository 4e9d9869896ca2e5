#!/bin/sh
# Models of other implementations: what opens, what is asked for, what is refused, and the way back.
#   import_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

ports=$source/tests/golden/ports
model=$work/model.safetensors

works "a Hugging Face folder" "$program" import "$ports/krasserm/clm_c4_style/hf" --out "$model" --compare "$ports/krasserm/clm_c4_style/golden.safetensors"
prints "^source .*krasserm/perceiver-io"; prints "row 2: logits differ by at most [0-9.]*e-0[67]"; prints "^loss .*difference of [0-9.]*e-0[6-9]"
works "a state dict with a configuration beside it" "$program" import "$ports/lucidrains/base/model.pt" --out "$model" --compare "$ports/lucidrains/base/golden.safetensors"
prints "^source .*lucidrains/perceiver-ar-pytorch"; prints "row 1: logits differ by at most [0-9.]*e-0[67]"
works sampling "$program" sample "$model" --tokens 3 --out "$work/sampled.npy"

# A state dict alone: what the weights do not show is asked for.
cp "$ports/lucidrains/base/model.pt" "$work/alone.pt"
refuses 2 "give --heads COUNT (2 of 32 channels or 1 of 64 channels would fit) and --prefix-length TOKENS" "$program" import "$work/alone.pt" --out "$model"
refuses 2 "heads of 16 channels do not fit" "$program" import "$work/alone.pt" --heads 4 --prefix-length 24 --out "$model"
refuses 2 "a prefix of 40 tokens" "$program" import "$work/alone.pt" --heads 2 --prefix-length 40 --out "$model"
works "sizes by option" "$program" import "$work/alone.pt" --heads 2 --prefix-length 24 --out "$work/given.safetensors"
works "the same" "$program" import "$ports/lucidrains/base" --out "$model"
cmp -s "$model" "$work/given.safetensors" || fail "options and config.json make different models"

# What is no model.
refuses 2 "README.md: is text, not weights" "$program" import "$source/README.md" --out "$work/x"
refuses 2 "no tensor of a known project" "$program" import "$ports/lucidrains/base/golden.safetensors" --from krasserm --out "$work/x"
refuses 2 "is a model of this program already" "$program" import "$model" --out "$work/x"

# The way back.
works "export to lucidrains" "$program" export "$model" --to lucidrains --out "$work/lucidrains"
works "and back" "$program" import "$work/lucidrains" --out "$work/again.safetensors"
cmp -s "$model" "$work/again.safetensors" || fail "another model after export and import"
refuses 2 "exists already" "$program" export "$model" --to lucidrains --out "$work/lucidrains"
refuses 2 "krasserm/perceiver-io cannot express this model: .*model.tied_output is false" "$program" export "$model" --to krasserm --out "$work/krasserm"
[ -e "$work/krasserm" ] && fail "a refused export wrote something"
works "export of plain tensors" "$program" export "$model" --to safetensors --out "$work/plain.safetensors"
works "an authors' file" "$program" import "$source/tests/golden/rotary_ragged.safetensors" --out "$model"
works "export to the authors' names" "$program" export "$model" --to official --out "$work/official.safetensors"
works "and back" "$program" import "$work/official.safetensors" --out "$work/again.safetensors"
cmp -s "$model" "$work/again.safetensors" || fail "another model after export to official"
exit $failed
