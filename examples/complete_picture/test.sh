#!/bin/sh
# test.sh BINARY PERCEIVER FOLDER: runs the example in an empty folder. PERCEIVER makes its model.
set -eu
complete=$1
perceiver=$2
source=$(cd "$(dirname "$0")/../.." && pwd)
cd "$3"
picture=$(ls "$source"/docs/pictures/*.png | head -1)
mkdir pictures
cp "$source"/docs/pictures/*.png pictures/
"$perceiver" --device cpu train "$source/configs/quickstart_image.yaml" --run run --quiet --set data.train=pictures --set data.validation_fraction=0.5 \
  --set data.options.size=16 --set data.options.tile=0 --set "model.position_sizes=[18,18,5]" --set model.context_length=768 --set model.latents=128 \
  --set model.input_channels=32 --set model.layers=1 --set train.steps=3 --set train.batch=2 --set eval.every=0
"$complete" run "$picture" out.png 2 > out
grep -q "^16 x 16 pixels, 192 of 768 tokens to be made$" out
[ "$(head -c 4 out.png | tail -c 3)" = PNG ]
code=0
"$complete" run "$source/README.md" out.png 2> err || code=$?
[ $code -eq 2 ]
grep -q "README.md" err
