#!/bin/sh
# A Transformer-XL from training to sample, resumed on the way; import and export.
#   recurrent_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

head -c 40000 "$source/docs/model.md" > "$work/text.txt"
tiny="$source/configs/tinyshakespeare_xl.yaml --set data.train=$work/text.txt --set model.context_length=32 --set model.memory_length=32 --set model.input_channels=16 --set model.layers=2 --set train.batch=4 --set train.steps=12 --set eval.every=0 --set eval.latents=16 --set eval.memory_length=48 --set checkpoint.every=4 --set threads=1 --device cpu"

works "dry run" "$program" train $tiny --dry-run
grep -q "^model   transformer_xl, .* memory 32" "$work/err" || fail "dry run: $(cat "$work/err")"
works whole "$program" train $tiny --run "$work/whole"
works half "$program" train $tiny --run "$work/half"
rm -r "$work/half/checkpoints/step-000000012" "$work/half/checkpoints/best"
works resumed "$program" train $tiny --run "$work/half" --resume
for file in optimizer memory; do
  cmp "$work/whole/checkpoints/step-000000012/$file.safetensors" "$work/half/checkpoints/step-000000012/$file.safetensors" || fail "resumed: another $file"
done

works eval "$program" eval "$work/whole" --latents 8,16 --memory 64; prints "^ *8 *8 "; prints "^ *16 *16 "
refuses 2 "a stride of 4" "$program" eval "$work/whole" --stride 4
works stream "$program" eval "$work/whole" --policy stream --max-tokens 60; prints "^  stream "
refuses 2 "cannot be combined with --memory" "$program" eval "$work/whole" --policy stream --memory 16
works sample "$program" sample --checkpoint "$work/whole" --prompt "The Perceiver" --tokens 80
works bench "$program" bench train --config "$source/configs/tinyshakespeare_xl.yaml" --set model.layers=1 --set model.context_length=16 --set train.batch=1 --set device=cpu --steps 1 --warmup 1

hf="$source/tests/golden/ports/transformer_xl/original_prenorm_projected/hf"
works import "$program" import "$hf" --out "$work/model.safetensors"; prints "^source .*TransfoXLLMHeadModel"; prints "segments of 128 tokens"
works export "$program" export "$work/model.safetensors" --to transfo-xl --out "$work/hf"
works again "$program" import "$work/hf" --out "$work/again.safetensors"
cmp "$work/model.safetensors" "$work/again.safetensors" || fail "an export came back as another model"
refuses 2 "cannot express this model: model.type is transformer_xl$" "$program" export "$work/model.safetensors" --to krasserm --out "$work/krasserm"
exit $failed
