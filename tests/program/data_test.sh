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
works build-verified $build --output "$work/killed"; prints "already finished"
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
grep -q "perceiver: warning: 1 file was skipped: 4.wav: not a supported audio file" "$work/err" || fail "skipped sound: $(cat "$work/err")"
works eval-sound "$program" eval --checkpoint "$work/run-sound"; prints "bits per sample"
complains 2 "tokenizer or its options differ" "$program" eval --checkpoint "$work/run-sound" --set data.options.sample_rate=4000
complains 2 "use --out FILE.wav" "$program" sample --checkpoint "$work/run-sound"
complains 2 "written as .wav, .flac" "$program" sample --checkpoint "$work/run-sound" --out "$work/x.mp3"
complains 2 "give --tokens" "$program" sample --checkpoint "$work/run-sound" --out "$work/x.wav"
works sample-sound "$program" sample --checkpoint "$work/run-sound" --prompt-file "$work/sound/1.wav" --prompt-seconds 0.02 --tokens 40 --ignore-eos --out "$work/x.wav"
works sample-length "$program" data roundtrip "$work/x.wav" --sample-rate 8000; prints "^tokens: 200 samples"

complains 2 "did you mean 'audio'" "$program" data build --modality audo --input "$work/sound" --output "$work/none"
complains 2 "sample_rat.*did you mean 'sample_rate'" "$program" data build --modality audio --sample-rat 1 --input "$work/sound" --output "$work/none"
touch "$work/x.npy"
complains 2 "may be of modality codec or tokens" "$program" data roundtrip "$work/x.npy"

# Folders with their own splits, whatever reads them; a test document is never trained on.
for name in train val test; do mkdir -p "$work/corpus/$name"; done
for i in 1 2 3; do
  echo "training text $i" > "$work/corpus/train/$i.txt"; echo "held text $i" > "$work/corpus/val/$i.txt"
  echo "test text $i" > "$work/corpus/test/$i.txt"
done
echo "about the corpus" > "$work/corpus/README"
works build-splits "$program" data build --modality text --input "$work/corpus" --output "$work/corpus-shards"
prints "train *1 shard *3 documents"; prints "validation *1 shard *3 documents"; prints "test *1 shard *3 documents"
prints "README: is outside the folders train/, val/ and test/"
text="$small --set data.type=text --set train.steps=1"
works train-splits "$program" train $text --set data.train="$work/corpus" --run "$work/run-splits"
works eval-splits "$program" eval --checkpoint "$work/run-splits" --split test --json; prints '"documents": 3'
complains 2 "leave data.validation empty" "$program" train $text --set data.train="$work/corpus-shards" --set data.validation="$work/corpus/val" --run "$work/run-both"
works train-unset "$program" train $text --set data.train="$work/corpus-shards" --set data.validation="$work/corpus/val" --set data.validation= --run "$work/run-unset"
mkdir "$work/corpus/dev"
complains 2 "has dev/ and val/, both for validation" "$program" train $text --set data.train="$work/corpus" --run "$work/run-both"
rmdir "$work/corpus/dev"; mv "$work/corpus/train" "$work/corpus/texts"
works train-test "$program" train $text --set data.train="$work/corpus" --run "$work/run-test"
grep -q "warning: .*has val/ and test/ but no train/" "$work/err" || fail "no train: $(cat "$work/err")"

# What is not text is named; files named themselves are never dropped.
mkdir "$work/mixed"
cp "$source/README.md" "$work/mixed/a.txt"; gzip -c "$source/README.md" > "$work/mixed/b.txt.gz"
printf 'caf\351 au lait' > "$work/mixed/c.txt"; printf '\357\273\277marked text' > "$work/mixed/d.txt"
printf 'nothing' > "$work/mixed/$(printf 'e\033.txt')"
works build-mixed "$program" data build --modality text --input "$work/mixed" --output "$work/mixed-shards"
prints "2 files skipped"; prints "b.txt.gz: is compressed with gzip; unpack it: gunzip"; prints "c.txt: is not UTF-8 text: byte 3 is E9"
prints "1 file repaired"; prints "d.txt: starts with a byte order mark"
works info-mixed "$program" data info "$work/mixed-shards"; prints "repaired    d.txt"; prints "skipped     c.txt"
works build-strict "$program" data build --modality text --strict --input "$work/mixed" --output "$work/mixed-strict"; prints "3 files skipped"
works build-bytes "$program" data build --modality text --encoding bytes --input "$work/mixed" --output "$work/mixed-bytes"
grep -q "skipped" "$work/out" && fail "--encoding bytes skips: $(cat "$work/out")"
works train-mixed "$program" train $text --set data.train="$work/mixed" --run "$work/run-mixed"
grep -q "warning: 2 files were skipped; the first, b.txt.gz: is compressed" "$work/err" || fail "skipped text: $(cat "$work/err")"
complains 2 "c.txt: is not UTF-8 text: byte 3 is E9; convert it" "$program" train $text --set data.train="$work/mixed/c.txt" --run "$work/run-c"
works train-bytes "$program" train $text --set data.options.encoding=bytes --set data.train="$work/mixed" --run "$work/run-bytes"
complains 2 "c.txt: its name has no ending that tells the modality, and it is not UTF-8 text" "$program" data roundtrip "$work/mixed/c.txt"
complains 2 "b.txt.gz: .*compressed with gzip; .*--modality" "$program" data roundtrip "$work/mixed/b.txt.gz"
complains 2 "d.txt: starts with a byte order mark" "$program" data roundtrip --strict "$work/mixed/d.txt"
works roundtrip-mark "$program" data roundtrip "$work/mixed/d.txt"; prints "^repaired: starts with a byte order mark"

# Links are followed once; broken ones, and files that cannot be read, are listed.
mkdir -p "$work/links" "$work/outside"
echo "text of a linked folder" > "$work/outside/x.txt"; echo "text" > "$work/links/y.txt"
ln -s ../outside "$work/links/far"; ln -s . "$work/links/loop"; ln -s nowhere "$work/links/broken"
works build-links "$program" data build --modality text --input "$work/links" --output "$work/links-shards"
prints "broken: is a broken link to 'nowhere'"; prints "loop: is a link to a folder that it is in"; prints "2 files skipped"
"$program" data info "$work/links-shards" --json | grep -q '"skipped"' || fail "links: info"
exit $failed
