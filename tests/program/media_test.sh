#!/bin/sh
# Images, music and sound from files to shards, a trained model, and files again; damaged files are skipped and reported.
#   media_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

# starts_with FILE TEXT
starts_with() { [ "$(head -c ${#2} "$1")" = "$2" ] || fail "$1 does not start with $2"; }
is_png() { [ "$(head -c 4 "$1" | tail -c 3)" = PNG ] || fail "$1 is no PNG"; }

mkdir "$work/pictures" "$work/tunes"
for seed in png_rgb png_grey png_palette png_interlaced16; do cp "$source/fuzz/seeds/image/$seed" "$work/pictures/$seed.png"; done
for seed in jpeg_rgb jpeg_grey jpeg_ycck jpeg_progressive; do cp "$source/fuzz/seeds/image/$seed" "$work/pictures/$seed.JPG"; done
for seed in format0 format1 format2 smpte; do cp "$source/fuzz/seeds/midi/$seed" "$work/tunes/$seed.mid"; done
head -c 60 "$work/pictures/png_rgb.png" > "$work/pictures/cut.png"
tail -c +5 "$work/tunes/format0.mid" > "$work/tunes/cut.mid"
small="--set model.input_channels=32 --set model.layers=1 --set model.latents=16 --set train.steps=2 --set train.batch=2 --set eval.max_documents=1 --set data.validation_fraction=0.3"

works roundtrip "$program" data roundtrip "$work/tunes/format1.mid"; prints "largest onset error"
complains 2 "cut.mid: offset 0: not a MIDI file" "$program" data roundtrip "$work/tunes/cut.mid"
complains 2 "cut.png: byte " "$program" data roundtrip "$work/pictures/cut.png"
printf 'GIF89a' > "$work/pictures/moving.jpeg"
complains 2 "moving.jpeg: is a GIF; only PNG and JPEG are read" "$program" data roundtrip "$work/pictures/moving.jpeg"
works turned "$program" data roundtrip "$source/fuzz/seeds/image/jpeg_exif" --modality image; prints "turned by 90 degrees clockwise"
works stored "$program" data roundtrip "$source/fuzz/seeds/image/jpeg_exif" --modality image --orientation ignore; prints "orientation                  upright"
for seed in flac aiff au vorbis mp3 id3_flac; do
  works "$seed" "$program" data roundtrip "$source/fuzz/seeds/audio/$seed" --modality audio --sample-rate 8000; prints "8000 per second"
done
printf '\000\000\000\040ftypM4A ' > "$work/song.m4a"
complains 2 "convert it: ffmpeg -i in.m4a out.wav" "$program" data roundtrip "$work/song.m4a"

works pictures "$program" data build --modality image --size 4 --input "$work/pictures" --output "$work/picture_shards" --validation-fraction 0.3
cat "$work/err" >> "$work/out"; prints "cut.png"; prints "moving.jpeg"; prints "dimensions"
works look "$program" data info "$work/picture_shards"
works train-pictures "$program" train "$source/configs/quickstart_image.yaml" $small --set data.options='{}' --set data.train="$work/picture_shards" --set model.context_length=48 --set model.position_sizes='[6, 6, 5]' --run "$work/picture_run"
for option in "--stop x" "--prompt x" "--jsonl" "--best-of 2" "--interactive" "--no-echo"; do refuses 2 "is for text; this is a model of image" "$program" sample "$work/picture_run" $option; done
refuses 2 "this model makes image; use --out FILE.png" "$program" sample "$work/picture_run"
works score "$program" eval --checkpoint "$work/picture_run"; prints "bits per dimension"
works grid "$program" sample --checkpoint "$work/picture_run" --count 3 --out "$work/grid.png"; is_png "$work/grid.png"
works rows "$program" sample --checkpoint "$work/picture_run" --prompt-file "$work/pictures/png_rgb.png" --prompt-rows 2 --out "$work/rows.png"; is_png "$work/rows.png"
works known "$program" sample --checkpoint "$work/picture_run" --prompt-file "$work/pictures/jpeg_rgb.JPG" --prompt-known "$work/pictures/png_grey.png" --out "$work/known.png"; is_png "$work/known.png"
complains 2 "grid.mid" "$program" sample --checkpoint "$work/picture_run" --out "$work/grid.mid"

works tunes "$program" train "$source/configs/quickstart_music.yaml" $small --set data.train="$work/tunes" --set model.context_length=64 --run "$work/tune_run"
works score "$program" eval --checkpoint "$work/tune_run"; prints "bits per event"
works midi "$program" sample --checkpoint "$work/tune_run" --tokens 30 --prompt-file "$work/tunes/format0.mid" --prompt-seconds 0.1 --out "$work/out.mid"
starts_with "$work/out.mid" MThd
works read-again "$program" data roundtrip "$work/out.mid"
works roll "$program" sample --checkpoint "$work/tune_run" --tokens 30 --out "$work/roll.png"; is_png "$work/roll.png"
complains 2 "give --tokens" "$program" sample --checkpoint "$work/tune_run" --out "$work/out.mid"
exit $failed
