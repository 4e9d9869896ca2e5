#!/bin/sh
# Commands whose work is spread over processes: results are those of one.
#   spread_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

meeting=0
# ranks N COMMAND...: runs it on N ranks of this machine; output and messages of rank R in $work/out.R, err.R,
# the largest exit code in $code
ranks() {
  n=$1; shift; meeting=$((meeting + 1)); started=""
  for rank in $(seq 0 $((n - 1))); do
    PERCEIVER_RANK=$rank PERCEIVER_RANKS=$n PERCEIVER_LOCAL_RANK=$rank PERCEIVER_LOCAL_RANKS=$n \
      PERCEIVER_RENDEZVOUS="$work/meeting.$meeting" PERCEIVER_RENDEZVOUS_PASSWORD=$meeting \
      "$@" > "$work/out.$rank" 2> "$work/err.$rank" < /dev/null &
    started="$started $!"
  done
  code=0
  for each in $started; do
    wait "$each"; got=$?
    [ $got -gt $code ] && code=$got
  done
}
# spreads N WHAT COMMAND...: all succeed, and only rank 0 prints, to $work/out
spreads() {
  count=$1; what=$2; shift 2
  ranks "$count" "$@"
  [ $code -eq 0 ] || fail "$what on $count ranks: exit code $code: $(cat "$work"/err.*)"
  for rank in $(seq 1 $((count - 1))); do
    [ -s "$work/out.$rank" ] && fail "$what: rank $rank printed: $(head -c 200 "$work/out.$rank")"
  done
  mv "$work/out.0" "$work/out"; rm -f "$work"/out.[0-9]*
}
equal() { diff -r "$1" "$2" > "$work/diff" || fail "$3: $(head -c 500 "$work/diff")"; }

# Shards, of the source tree as a corpus.
mkdir -p "$work/books"
cat "$source"/README.md "$source"/docs/*.md > "$work/whole.txt"
split -b 2000 "$work/whole.txt" "$work/books/part-"
touch "$work/books/empty.txt"
build="$program data build --modality text --input $work/books --shard-tokens 12000 --test-fraction 0.1"
works build $build --output "$work/one" --workers 1
grep -v files/s "$work/out" | sed "s#$work/one#OUT#" > "$work/one.txt"
for n in 2 3; do
  spreads $n build $build --output "$work/shards$n"
  grep -v files/s "$work/out" | sed "s#$work/shards$n#OUT#" > "$work/many.txt"
  equal "$work/one" "$work/shards$n" "shards of $n ranks"
  equal "$work/one.txt" "$work/many.txt" "what $n ranks say of shards"
done

# What one rank finds wrong ends all, with one line.
mkdir -p "$work/taken"; echo mine > "$work/taken/file"
ranks 3 $build --output "$work/taken"
[ $code -eq 2 ] || fail "build into a folder in use: exit code $code"
[ "$(cat "$work"/err.* | grep -c "error: .*is not empty")" -eq 1 ] || fail "not one line: $(cat "$work"/err.*)"

# A model, scored and sampled.
config="$source/configs/quickstart.yaml --set data.train=$work/shards2 --set data.validation= --set model.layers=1 --set model.input_channels=32 --set model.context_length=64 --set model.latents=32 --set train.batch=4 --set train.steps=3 --set eval.every=0 --set threads=1"
works train "$program" train $config --run "$work/run"
for options in "" "--latents 8,16 --max-documents 5" "--policy exact,refill --max-tokens 20 --max-documents 3" "--max-documents 1"; do
  works eval "$program" eval "$work/run" --json $options
  grep -v tokens_per_second "$work/out" > "$work/one.json"
  for n in 2 3; do
    spreads $n "eval $options" "$program" eval "$work/run" --json $options
    grep -v tokens_per_second "$work/out" > "$work/many.json"
    equal "$work/one.json" "$work/many.json" "eval $options on $n ranks"
  done
done

printf 'Once\nTwice\nNever\n' > "$work/prompts.txt"
sample="$program sample $work/run --tokens 12 --seed 3"
for options in "--prompts-file $work/prompts.txt --count 3" "--prompt One" "--prompts-file $work/prompts.txt --best-of 3 --json"; do
  works sample $sample $options
  cp "$work/out" "$work/one.txt"
  for n in 2 5; do
    spreads $n sample $sample $options
    equal "$work/one.txt" "$work/out" "sample $options on $n ranks"
  done
done
mkdir "$work/a" "$work/b"
works sample-files $sample --prompt One --count 5 --out "$work/a/x.txt"
spreads 2 sample-files $sample --prompt One --count 5 --out "$work/b/x.txt"
equal "$work/a" "$work/b" "files of samples"
ranks 2 "$program" sample "$work/run" --interactive
[ $code -eq 2 ] || fail "sample --interactive on two ranks: exit code $code"
exit $failed
