#!/bin/sh
# perceiver data as a user sees it, and models of audio and of subword text from files to files.
#   data_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

same() { diff -r "$1" "$2" > "$work/diff" || fail "$1 and $2 differ: $(head -c 500 "$work/diff")"; }

# The source tree as a corpus: real text that is always available.
mkdir -p "$work/books"
cat "$source"/README.md "$source"/docs/*.md "$source"/LICENSE > "$work/whole.txt"
split -b 2000 "$work/whole.txt" "$work/books/part-"
touch "$work/books/empty.txt"

works modalities "$program" data modalities; prints "sample_rate"
works build-help "$program" data build --help; prints "options of the"
build="$program data build --modality text --input $work/books --shard-tokens 6000 --test-fraction 0.1"
works build $build --output "$work/shards" --workers 1; prints "1 file skipped"; prints "empty.txt: is empty"
works build-two $build --output "$work/two" --workers 3
same "$work/shards" "$work/two"
works build-quiet $build --output "$work/quiet" --quiet --log-file "$work/build.log"
[ -s "$work/err" ] && fail "build --quiet: $(cat "$work/err")"
grep -q " info [0-9]* of [0-9]* files" "$work/build.log" || fail "build --log-file: $(cat "$work/build.log")"
works info "$program" data info "$work/shards"; prints "all checksums"; prints "skipped     empty.txt"
works info-json "$program" data info "$work/shards" --json; prints '"vocabulary": 259'

# A build that is killed at any point can be continued, with the same shards as result.
for delay in 0.01 0.03 0.06 0.1; do
  rm -rf "$work/killed"
  $build --output "$work/killed" > /dev/null 2>&1 & running=$!
  sleep $delay; kill -9 $running 2> /dev/null; wait $running 2> /dev/null
  works build-again $build --output "$work/killed"
  same "$work/shards" "$work/killed"
done
rm "$work/killed/summary.json"
complains 2 "not finished" "$program" data info "$work/killed"
works build-verified $build --output "$work/killed"; prints "were already finished"
complains 2 "other files or options" "$program" data build --modality text --input "$work/books" --output "$work/killed"

# Damage is found and located.
damaged=$(ls "$work"/killed/train-00001-*.shard)
printf 'x' | dd of="$damaged" bs=1 seek=2500 conv=notrunc 2> /dev/null
complains 2 "train-00001-.*byte .*section .*checksum" "$program" data info "$work/killed"
head -c 1000 "$damaged" > "$work/cut.shard"
complains 2 "cut.shard: byte 1000: .*truncated" "$program" data info "$work/cut.shard"

# Text in pieces: tokenizer, shards, training, word perplexity, samples.
works tokenizer "$program" data tokenizer --input "$work/books" --output "$work/pieces.model" --pieces 500; prints "model.vocabulary: 503"
works roundtrip "$program" data roundtrip "$source/README.md" --tokenizer "$work/pieces.model"; prints "identical to the file"
works pieces "$program" data build --modality text --tokenizer "$work/pieces.model" --input "$work/books" --output "$work/pieces"
small="$source/configs/copy32.yaml --set model.input_channels=32 --set model.layers=1 --set model.context_length=64 --set train.batch=4 --set eval.every=0 --set train.steps=3 --set threads=1"
complains 2 "503 token ids" "$program" train $small --set data.type=text --set data.train="$work/pieces" --run "$work/run-small"
works train-pieces "$program" train $small --set data.type=text --set data.train="$work/pieces" --set model.vocabulary=503 --run "$work/run-pieces"
rm "$work/pieces.model"  # the model file is enough
works eval-pieces "$program" eval --checkpoint "$work/run-pieces" --max-documents 2; prints "word perplexity"; prints "bits per byte"
works eval-json "$program" eval --checkpoint "$work/run-pieces" --max-documents 2 --json; prints '"word_perplexity"'
works sample-pieces "$program" sample --checkpoint "$work/run-pieces" --prompt "The model" --tokens 5; prints "^The model"
works sample-text "$program" sample --checkpoint "$work/run-pieces" --prompt-file "$source/README.md" --prompt-tokens 9 --tokens 5 --out "$work/sample.txt"
[ -s "$work/sample.txt" ] || fail "no sample.txt"

# Audio: a model of noise, from raw files, and a continuation of one of them.
mkdir "$work/sound"
for i in 1 2 3; do  # 8 kHz, 16 bits: a header by hand before the bytes of the text
  head -c $((i * 500)) "$work/whole.txt" > "$work/pcm"; n=$((i * 500))
  { printf 'RIFF'; printf "\\$(printf %o $(((n + 36) % 256)))\\$(printf %o $(((n + 36) / 256)))\\0\\0WAVEfmt \\020\\0\\0\\0\\1\\0\\1\\0\\100\\037\\0\\0\\200\\076\\0\\0\\2\\0\\020\\0data"
    printf "\\$(printf %o $((n % 256)))\\$(printf %o $((n / 256)))\\0\\0"; cat "$work/pcm"; } > "$work/sound/$i.wav"
done
echo "no sound" > "$work/sound/4.wav"
mkdir "$work/held"; mv "$work/sound/3.wav" "$work/held"
works sound-roundtrip "$program" data roundtrip "$work/sound/1.wav" --sample-rate 8000; prints "250 samples in 1 channels, 8000 per second"
sound="$small --set data.type=audio --set data.options.sample_rate=8000 --set data.train=$work/sound --set data.validation=$work/held"
works train-sound "$program" train $sound --run "$work/run-sound"
grep -q "perceiver: warning: 1 files were skipped; the first, 4.wav: not a supported audio file" "$work/err" || fail "skipped sound: $(cat "$work/err")"
works eval-sound "$program" eval --checkpoint "$work/run-sound"; prints "bits per sample"
complains 2 "tokenizer or its options differ" "$program" eval --checkpoint "$work/run-sound" --set data.options.sample_rate=4000
complains 2 "use --out FILE.wav" "$program" sample --checkpoint "$work/run-sound"
complains 2 "written as .wav, .flac" "$program" sample --checkpoint "$work/run-sound" --out "$work/x.mp3"
complains 2 "give --tokens" "$program" sample --checkpoint "$work/run-sound" --out "$work/x.wav"
works sample-sound "$program" sample --checkpoint "$work/run-sound" --prompt-file "$work/sound/1.wav" --prompt-seconds 0.02 --tokens 40 --ignore-eos --out "$work/x.wav"
works sample-length "$program" data roundtrip "$work/x.wav" --sample-rate 8000; prints "^tokens: 200 samples"

complains 2 "did you mean 'audio'" "$program" data build --modality audo --input "$work/sound" --output "$work/none"
complains 2 "sample_rat.*did you mean 'sample_rate'" "$program" data build --modality audio --sample-rat 1 --input "$work/sound" --output "$work/none"
complains 2 "may be of modality codec or tokens" "$program" data roundtrip "$work/x.npy"
exit $failed
