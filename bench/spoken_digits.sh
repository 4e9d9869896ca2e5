#!/bin/sh
# Spoken digits on demand: trains on recordings that begin with a mark of their digit, asks for ten of each digit, and lets a recogniser
# that has only heard real recordings say what it hears (spoken_digits.py).
#   bench/spoken_digits.sh PERCEIVER RECORDINGS FOLDER [TRAIN OPTION...]
# RECORDINGS: DIGIT_SPEAKER_TAKE.wav, 8 kHz. FOLDER gets the data, the run and the samples; a run that is there goes on.
# COUNT=10: samples of each digit. TEMPERATURE=1: less makes them fade. They come from the last checkpoint: its samples are understood better
# than those of the best one by validation loss. Needs python3 with numpy (PYTHON=...).
set -eu
perceiver=$1 recordings=$2 folder=$3
shift 3
here=$(cd "$(dirname "$0")" && pwd)
digits="${PYTHON:-python3} $here/spoken_digits.py"
mkdir -p "$folder/samples"
if [ ! -e "$folder/shards" ]; then
  $digits prepare "$recordings" "$folder/marked"
  $digits prompts "$folder/prompts"
  "$perceiver" data build --modality audio --sample-rate 8000 --input "$folder/marked" --output "$folder/shards" \
    --test-files '*_[0-4].wav' --validation-files '*_5.wav'
fi
resume=""
[ ! -e "$folder/run" ] || resume=--resume
"$perceiver" train "$here/../configs/spoken_digits.yaml" --run "$folder/run" $resume --set data.train="$folder/shards" "$@"
"$perceiver" eval "$folder/run" --split validation
rm -f "$folder"/samples/*
last=$(find "$folder/run/checkpoints" -name 'step-*' | sort | tail -1)
for digit in 0 1 2 3 4 5 6 7 8 9; do
  "$perceiver" --quiet sample "$last" --prompt-file "$folder/prompts/$digit.wav" --count "${COUNT:-10}" --batch "${COUNT:-10}" \
    --tokens 8000 --temperature "${TEMPERATURE:-1}" --seed "$digit" --out "$folder/samples/$digit.wav"
done
$digits recognise "$recordings" "$folder/samples"
