#!/bin/sh
# Photographs, byte by byte: trains configs/tiny_imagenet32.yaml or configs/tiny_imagenet64.yaml, scores all validation pictures
# with long contexts for every byte, and draws 16 samples of consecutive seeds.
#   bench/photographs.sh PERCEIVER PICTURES SIZE ORDER FOLDER [TRAIN OPTION...]
# PICTURES: a folder with train/ and validation/. SIZE: 32 or 64, pixels. ORDER: raster (pixel by pixel) or r_g_b (channel
# planes). FOLDER gets the shards, the run and samples.png; a run that is there goes on. STRIDE=256: bytes that are scored with
# the context and latents of the last of them.
set -eu
perceiver=$1 pictures=$2 size=$3 order=$4 folder=$5
shift 5
configs=$(cd "$(dirname "$0")/../configs" && pwd)
mkdir -p "$folder"
[ -e "$folder/shards" ] ||
  "$perceiver" data build --modality image --size "$size" --order "$order" --input "$pictures" --output "$folder/shards"
resume=""
[ ! -e "$folder/run" ] || resume=--resume
"$perceiver" train "$configs/tiny_imagenet$size.yaml" --run "$folder/run" $resume --set data.train="$folder/shards" "$@"
"$perceiver" eval "$folder/run" --split validation --stride "${STRIDE:-256}"
"$perceiver" sample "$folder/run" --count 16 --batch 16 --seed 1 --out "$folder/samples.png"
