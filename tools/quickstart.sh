#!/bin/sh
# From a fresh Debian or Ubuntu to three trained models and their samples: installs the dependencies and builds (three to
# six minutes on two cores, longer with GPU code: where there is a GPU and nvcc). First shows what the models in models/
# make (a quarter of a minute). Then, for text (the King James Bible), pictures (crops of photographs) and music (a game's
# tunes), all from Debian packages, it trains for 30 or 35 seconds, text and music from the models in models/ and
# pictures from scratch, scores on held-out data and samples (three minutes).
#   tools/quickstart.sh [TEXT_FILE]      (your own text instead, and nothing else)
set -eu
cd "$(dirname "$0")/.."
tools/install_packages.sh

# GPU code takes minutes to compile, and without a GPU it would never run.
cuda=AUTO
if ! ls /dev/nvidia[0-9]* > /dev/null 2>&1 && ! nvidia-smi -L > /dev/null 2>&1; then
  echo "No GPU found: building for the CPU only"
  cuda=OFF
fi
cmake -S . -B build -G Ninja -DPERCEIVER_UNITY=ON -DPERCEIVER_CUDA=$cuda > /dev/null
ninja -C build perceiver_program
perceiver=build/perceiver

# debian PACKAGE...: installs the missing ones
debian() {
  missing=""
  for package; do
    dpkg-query -W -f='${Status}' "$package" 2> /dev/null | grep -q "install ok installed" || missing="$missing $package"
  done
  [ -n "$missing" ] || return 0
  root=""
  [ "$(id -u)" -eq 0 ] || root="sudo"
  DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends $missing
}

# learn CONFIG DATA RUN [OPTION...]: a fresh run of 30 seconds, in which the whole schedule of the learning rate fits on any machine
learn() {
  config=$1; data=$2; folder=$3; shift 3
  rm -rf "$folder"
  $perceiver train "$config" --set data.train="$data" --run "$folder" --set schedule.until=30s --set train.max_minutes=0 "$@"
}

# shipped: samples of the models that come with the program. Pictures take longest, so they have a core of their own.
shipped() {
  mkdir -p runs/shipped
  echo "== The models in models/"
  $perceiver --threads 1 --quiet sample emoji --count 3 --batch 3 --latents 256 --seed 1 --out runs/shipped/emoji.png &
  pictures=$!
  $perceiver --quiet sample books --prompt-file models/books_start.txt --tokens 150 --seed 1 | fold -s -w 100
  echo
  endings="mid png"
  ! command -v fluidsynth > /dev/null || endings="mid png wav"
  for ending in $endings; do
    $perceiver --quiet sample chorale --prompt-file models/chorale_start.mid --seed 1 --out runs/shipped/chorale.$ending
  done
  wait $pictures
  echo "(The given beginning is green in the piano roll. More: docs/gallery.md)"
  echo
}

text=${1:-}
[ -n "$text" ] || shipped
if [ -z "$text" ]; then
  text=data/bible.txt
  if [ ! -s "$text" ]; then
    debian bible-kjv bible-kjv-text
    mkdir -p data
    bible -f gen1:1-rev22:21 > "$text.part"
    mv "$text.part" "$text"
  fi
fi

# start_from MODEL RUN [OPTION...]: a run of 35 seconds from the weights of a model, with a shorter context. AdamW, whatever the
# model was trained with: Muon takes half as many steps of this size in the time, and does not make up for it.
start_from() {
  model=$1; folder=$2; shift 2
  rm -rf "$folder"
  mkdir -p runs
  $perceiver config "$model" --set model.context_length=512 --set model.latents=128 --set model.residual_dropout=0 --set model.context_dropout=0 \
    --set train.batch=8 --set schedule.until=35s --set train.max_minutes=0 --set train.ema_decay=0 --set train.log_every=10 \
    --set optimizer.type=adamw --set optimizer.learning_rate=5e-4 --set schedule.warmup_steps=10 --set schedule.final_learning_rate=1e-4 \
    --set eval.every=0 "$@" > "$folder.yaml"
  $perceiver train "$folder.yaml" --run "$folder"
}

# Text: from the model of books, which gets much further in that time than a fresh one does in two. Its pieces cannot be split at
# any byte, so the last lines are held out; a text of few lines is learnt from scratch.
# learn_text TEXT RUN
learn_text() {
  lines=$(wc -l < "$1")
  [ "$lines" -ge 200 ] || { learn configs/quickstart.yaml "$1" "$2"; return; }
  rm -rf "$2-text"
  mkdir -p "$2-text/train" "$2-text/validation"
  head -n $((lines * 99 / 100)) "$1" > "$2-text/train/text.txt"
  tail -n +$((lines * 99 / 100 + 1)) "$1" > "$2-text/validation/text.txt"
  start_from books "$2" --set data.train="$2-text" --set data.options={} --set model.max_wavelength=2048 \
    --set optimizer.learning_rate=1e-3
}

echo "== Text"
run=runs/quickstart
learn_text "$text" $run
echo
echo "Order-0 entropy of the text (what byte frequencies alone would reach), bits per byte:"
od -An -v -tu1 -w1 "$text" | sort | uniq -c | awk '{ n[NR] = $1; t += $1 } END { for (i in n) h -= n[i] / t * log(n[i] / t) / log(2); printf "%.3f\n", h }'
echo "The model on held-out text:"
$perceiver eval --checkpoint $run --split validation --max-documents 8
echo
echo "A sample:"
$perceiver sample --checkpoint $run --prompt "And the LORD said" --tokens 150 --temperature 0.8 --top-p 0.95 --seed 1
[ $# -eq 0 ] || exit 0

echo
echo "== Pictures"
debian mate-backgrounds
photos=/usr/share/backgrounds/mate/nature
run=runs/quickstart_image
learn configs/quickstart_image.yaml $photos $run
echo "Samples, and a photograph completed from its upper half:"
$perceiver sample --checkpoint $run --count 4 --top-p 0.98 --seed 1 --out $run/samples.png
$perceiver sample --checkpoint $run --count 4 --top-p 0.98 --seed 1 --prompt-file $photos/Dune.jpg \
  --prompt-rows 8 --out $run/completions.png

echo
echo "== Music"
debian openttd-openmsx
tunes=/usr/share/games/openttd/baseset/openmsx
run=runs/quickstart_music
start_from chorale $run --set data.train=$tunes --set "data.options={transpose: 3, stretch: 0.05}" --set data.validation_fraction=0.1 \
  --set eval.max_documents=2 --set model.max_wavelength=1024 --set schedule.until=30s
echo "A continuation of the first eight seconds of a tune, as MIDI and as a piano roll:"
for ending in mid png; do
  $perceiver sample --checkpoint $run --tokens 400 --temperature 0.9 --top-p 0.9 --seed 1 \
    --prompt-file $tunes/harp_harmony.mid --prompt-seconds 8 --out $run/sample.$ending
done
echo "(With the packages fluidsynth and timgm6mb-soundfont, --out $run/sample.wav renders it to sound.)"
