#!/bin/sh
# The command line in words: help, completion, mistakes and their one line, output that cannot be written.
#   words_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

model=$work/model.safetensors
works import "$program" import "$source/tests/golden/rotary_ragged.safetensors" --out "$model"

# Help, by word and by option; the examples are the command's own.
for command in train eval sample serve report runs info models config import export "data build" "data info" "data roundtrip" "data tokenizer" "bench train" "bench decode" "bench attention" "bench projection" completion help; do
  works "help $command" "$program" help $command; prints "^Examples:"; prints "Usage: perceiver $command"
  cp "$work/out" "$work/help"
  works "$command --help" "$program" $command --help
  cmp -s "$work/out" "$work/help" || fail "perceiver help $command differs from --help"
  sed -n '/^Examples:/,$p' "$work/help" | grep "^  .*perceiver" | grep -v "perceiver $command" | grep -q . && fail "$command: an example of another command"
done
works help "$program" help; prints "^Examples:"; prints "perceiver train"
refuses 2 "unknown command 'trian'; did you mean 'train'? (see perceiver --help)" "$program" trian
refuses 2 "unknown command 'trian'; did you mean 'train'?" "$program" --device cpu trian configs/quickstart.yaml
refuses 2 "unknown command 'bild'; did you mean 'build'? (see perceiver data --help)" "$program" data bild
refuses 2 "unknown command 'smaple'; did you mean 'sample'?" "$program" help smaple
refuses 2 "unknown command 'xyzzy' (see perceiver --help)" "$program" xyzzy
refuses 2 "no command given; the choices: train, eval" "$program"
refuses 2 "no command given; the choices: build, info" "$program" data

# Words and numbers.
sample="$program sample $model --tokens 4"
refuses 2 "policy: 'strem' is unknown; did you mean 'stream'? The choices: auto, exact, refill, stream (see perceiver sample --help)" $sample --policy strem
refuses 2 "unknown option '--tempurature'; did you mean '--temperature'? (see perceiver sample --help)" $sample --tempurature 1
refuses 2 "seed: '-1' given; must be a whole number from 0 to 18446744073709551615, or random (see" $sample --seed -1
refuses 2 "tokens: 'many' is not a whole number" $sample --tokens many
refuses 2 "top-p: 'x' is not a number" $sample --top-p x
refuses 2 "latents: '0' given; must be 1 or more (see perceiver eval --help)" "$program" eval "$model" --latents 0
refuses 2 "split: 'valid' is unknown; did you mean 'validation'?" "$program" eval "$model" --split valid
refuses 2 "device: 'gpu' is unknown; did you mean" "$program" --device gpu info "$model"
refuses 2 "checkpoint is required (see perceiver sample --help)" "$program" sample

# What is no checkpoint is named.
refuses 2 "README.md: is text, not a model; expected a run folder" "$program" sample "$source/README.md"
refuses 2 "quickstart.yaml: a configuration, not a model.*perceiver train" "$program" eval "$source/configs/quickstart.yaml"
: > "$work/empty"
refuses 2 "empty: is empty, not a model" "$program" info "$work/empty"
mkdir "$work/folder"
refuses 2 "is it a run or checkpoint folder" "$program" info "$work/folder"
printf '\211PNG\r\n\032\n' > "$work/picture"
refuses 2 "picture: is a PNG picture, not a model" "$program" info "$work/picture"

# Messages cannot drive the terminal.
escape=$(printf '\033')
refuses 2 'x\\x1b\[2J\\x0ay\\xff: no such checkpoint' "$program" info "$(printf 'x\033[2J\ny\377')"
grep -q "$escape" "$work/err" && fail "an escape sequence in a message"

# A checkpoint by position or option, but once.
works positional "$program" info "$model"; cp "$work/out" "$work/info"
works option "$program" info --checkpoint "$model"; cmp -s "$work/out" "$work/info" || fail "info differs"
complains 2 "checkpoint" "$program" sample "$model" --checkpoint "$model" --tokens 1

# A model by its name, wherever a checkpoint is taken; a path comes first.
mkdir "$work/named"; cp "$model" "$work/named/tiny.safetensors"; printf '# tiny: for a test\n' > "$work/named/tiny.md"
PERCEIVER_MODELS=$work/none:$work/named; export PERCEIVER_MODELS
works models "$program" models; prints "^tiny  *text .*for a test$"
works "models --names" "$program" models --names; prints "^tiny$"
works "info by name" "$program" info tiny; sed 1d "$work/out" > "$work/by_name"; sed 1d "$work/info" | cmp -s - "$work/by_name" || fail "info by name differs"
works "sample --model" "$program" sample --model tiny --tokens 4
works "export by name" "$program" export tiny --to safetensors --out "$work/exported.safetensors"
works "config by name" "$program" config tiny; prints "initialize: .*/named/tiny.safetensors$"
refuses 2 "tinny: no such checkpoint; the models that have a name:.* tiny" "$program" sample tinny
refuses 2 "tinny: no such checkpoint; the models that have a name:.* tiny" "$program" serve tinny
(cd "$work" && : > tiny && refuses 2 "tiny: is empty, not a model" "$program" info tiny; exit $failed) || failed=1

# A model's own defaults, and options that go before them.
works "defaults" "$program" quantize tiny --weights int8 --out "$work/defaults.safetensors" --sampling tokens=3 --sampling temperature=0
for seed in 1 2; do
  works "by default" "$program" sample "$work/defaults.safetensors" --seed $seed; cp "$work/out" "$work/by_default$seed"
  grep -q "as the model says: --tokens 3 --temperature 0" "$work/err" || fail "defaults are not told: $(cat "$work/err")"
done
cmp -s "$work/by_default1" "$work/by_default2" || fail "temperature 0 of the model has no effect"
works "greedy" "$program" sample "$work/defaults.safetensors" --tokens 20; longer=$(wc -c < "$work/out")
[ "$longer" -gt "$(wc -c < "$work/by_default1")" ] || fail "--tokens does not go before the model's default"
refuses 2 "'foo' is no option with a default" "$program" quantize tiny --weights int8 --out "$work/x.safetensors" --sampling foo=1
refuses 2 "top-p 2: must be" "$program" quantize tiny --weights int8 --out "$work/x.safetensors" --sampling top-p=2
refuses 2 "top-p=: expected NAME=NUMBER" "$program" quantize tiny --weights int8 --out "$work/x.safetensors" --sampling top-p=

# Fine-tuning on text: the tokens are the model's.
works tokenizer "$program" data tokenizer --input "$source/README.md" --output "$work/pieces.model" --pieces 400
cat > "$work/pieces.yaml" << END
model: {vocabulary: 403, context_length: 16, latents: 8, input_channels: 16, layers: 1, cross_heads: 1, self_heads: 1}
data: {train: $source/README.md, validation: $source/CONTRIBUTING.md, options: {tokenizer: $work/pieces.model}}
train: {steps: 1, batch: 1}
eval: {max_documents: 1, stride: 8}
END
works "train pieces" "$program" --threads 3 train "$work/pieces.yaml" --run "$work/pieces"
rm "$work/pieces.model"
works "quantize" "$program" quantize "$work/pieces" --weights int8 --out "$work/named/pieces.safetensors"
works "config of pieces" "$program" config pieces --set data.options={}; prints "tokenizer: .*/named/pieces.safetensors"
prints "^threads: 0$"  # not those of the machine that trained it
cp "$work/out" "$work/fine_tuning.yaml"
works "fine-tuning" "$program" train "$work/fine_tuning.yaml" --run "$work/fine_tuned"

# Options that do not apply are errors.
refuses 2 "prompt-rows is for images; this is a model of text" $sample --prompt-file "$source/README.md" --prompt-rows 3
refuses 2 "prompt-tokens needs --prompt-file" $sample --prompt-tokens 3
refuses 2 "prompts-file cannot be combined with --prompt:" $sample --prompts-file "$source/README.md" --prompt x
refuses 2 "json cannot be combined with --out" $sample --json --out "$work/x.txt"
refuses 2 "refill 4 needs --policy refill" $sample --policy exact --refill 4
refuses 2 "count cannot be combined with --interactive" $sample --interactive --count 2
refuses 2 "set model.latents=4 has no effect here" "$program" eval "$model" --set model.latents=4
refuses 2 "refill 4 needs --policy refill" "$program" eval "$model" --policy exact --refill 4
refuses 2 "set says nothing\|--set changes a configuration" "$program" config --explain train --set train.steps=3
refuses 2 "cannot be combined with --checkpoint" "$program" bench decode --checkpoint "$model" --set train.steps=3

# Output that cannot be written.
if [ -w /dev/full ]; then
  for arguments in "--help" "--version" "help sample" "config --explain" "info $model" "data modalities" "completion bash" "help --man" \
    "sample $model --tokens 4" "sample $model --tokens 4 --json" "sample $model --tokens 4 --count 2" "import $source/tests/golden/rotary_ragged.safetensors --out $work/again"; do
    "$program" $arguments > /dev/full 2> "$work/err"
    [ $? -eq 1 ] || fail "$arguments > /dev/full: exit code is not 1"
    grep -q "^perceiver: error: cannot write to stdout: No space left on device" "$work/err" || fail "$arguments > /dev/full: $(cat "$work/err")"
  done
  # A stream stops at its first token: a million would take minutes.
  timeout 60 "$program" sample "$model" --tokens 1000000 > /dev/full 2> "$work/err"; [ $? -eq 1 ] || fail "a stream into /dev/full goes on"
fi
"$program" info "$model" >&- 2> "$work/err"; [ $? -eq 1 ] || fail "info with stdout closed: exit code is not 1"
grep -q "cannot write to stdout: Bad file descriptor" "$work/err" || fail "stdout closed: $(cat "$work/err")"
timeout 60 "$program" sample "$model" --tokens 1000000 --ignore-eos 2> "$work/err" | head -c 1 > /dev/null; [ -s "$work/err" ] && fail "a closed pipe: $(cat "$work/err")"

# Completion: the functions offer what the parser knows.
works completion "$program" completion bash; cp "$work/out" "$work/completion"
complete_words() { bash -c '. "$1"; shift; compopt() { :; }; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _perceiver; printf "%s\n" "${COMPREPLY[@]}"' bash "$work/completion" "$@" > "$work/out"; }
complete_words perceiver tr; prints "^train$"
complete_words perceiver data ""; prints "^build$"; prints "^roundtrip$"
complete_words perceiver sample --pol; prints "^--policy$"
complete_words perceiver sample --policy s; prints "^stream$"
complete_words perceiver sample --prompt train --th; prints "^--threads$"
complete_words perceiver --device c; prints "^cuda$"
complete_words perceiver train x.yaml --set train.st; prints "^train.steps=$"
(cd "$source" && complete_words perceiver sample --prompt-file READ; prints "^README.md$"; exit $failed) || failed=1
(PATH=$(dirname "$program"):$PATH; complete_words perceiver sample ti; prints "^tiny$"; complete_words perceiver sample --model ti; prints "^tiny$"; exit $failed) || failed=1
refuses 2 "shell: 'tcsh' is unknown" "$program" completion tcsh
for shell in zsh fish; do
  works "completion $shell" "$program" completion $shell; prints "prompt-known"
  cp "$work/out" "$work/script"
  if command -v $shell > /dev/null; then $shell -n "$work/script" || fail "completion for $shell"; fi
done
works man "$program" help --man; prints '^.TH PERCEIVER 1'; prints 'perceiver data build'
if command -v man > /dev/null; then
  man --warnings -l "$work/out" < /dev/null > "$work/page" 2> "$work/err" || fail "man: $(cat "$work/err")"
  [ -s "$work/err" ] && fail "the manual page: $(head -3 "$work/err")"
  grep -q -e "--top-p" "$work/page" || fail "the manual page has no --top-p"
fi
exit $failed
