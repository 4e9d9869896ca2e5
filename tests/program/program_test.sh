#!/bin/sh
# The program as a user sees it: commands that work, and one clear line with exit code 2 for each mistake.
#   program_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

model=$work/model.safetensors
works version "$program" --version; prints "CPU kernels: "
refuses 2 "PERCEIVER_CPU=mmx: .*this machine; it has" env PERCEIVER_CPU=mmx "$program" --version
refuses 2 "PERCEIVER_CPU=mmx" env PERCEIVER_CPU=mmx "$program" info --devices
works help "$program" --help; prints "perceiver train"
works import "$program" import --from official "$source/tests/golden/rotary_ragged.safetensors" --out "$model"
works info "$program" info "$model"; prints "237763"
works info-json "$program" info "$model" --json; prints '"parameter_count": 237763'
head -c 3000 "$source/README.md" > "$work/text.txt"
works eval "$program" eval --checkpoint "$model" --set data.train="$work/text.txt" --set data.validation_fraction=0.2 --json; prints '"bits_per_byte"'
works sweep "$program" eval --checkpoint "$model" --set data.train="$work/text.txt" --set data.validation_fraction=0.2 --latents 4,8; prints "bits/byte"
works sample "$program" sample --checkpoint "$model" --prompt "To be" --tokens 8 --seed 3; prints "^To be"
cp "$work/out" "$work/first"
works sample-again "$program" sample --checkpoint "$model" --prompt "To be" --tokens 8 --seed 3
cmp -s "$work/out" "$work/first" || fail "the same seed gave another text"
for policy in exact refill stream; do works "policy $policy" "$program" sample --checkpoint "$model" --prompt "To be" --tokens 40 --policy $policy --latents 8 --at-context-end drop; prints "^To be"; done
works count "$program" sample --checkpoint "$model" --prompt "To be" --tokens 8 --count 3 --batch 2 --seed 3; prints "^--- 3"
grep -q -F "$(head -1 "$work/first")" "$work/out" || fail "the first of several is not what it is alone"
printf 'To be\n\nor not\n' > "$work/prompts.txt"
works prompts "$program" sample --checkpoint "$model" --prompts-file "$work/prompts.txt" --tokens 8 --best-of 3 --json; prints '"prompt": "or not"'
printf '"To\\nbe"\n{"prompt": "or"}\n' > "$work/prompts.jsonl"
works prompts-json "$program" sample --checkpoint "$model" --prompts-file "$work/prompts.jsonl" --tokens 4 --json; prints '"prompt": "To.nbe"'
works forced "$program" sample --checkpoint "$model" --prompt "To be" --tokens 4 --logit-bias 68=1000,69=-inf --stop AA --json; prints '"ending": "stop"'
complains 1 "no token can be chosen" timeout 60 "$program" sample --checkpoint "$model" --prompt x --tokens 4 --logit-bias "$(seq 0 258 | sed 's/$/=-inf/' | paste -sd,)"
works penalty "$program" sample --checkpoint "$model" --prompt "To be" --tokens 4 --repetition-penalty 1.3 --stop-token 70,71
works policies "$program" eval --checkpoint "$model" --set data.train="$work/text.txt" --set data.validation_fraction=0.2 --policy exact,refill,stream --latents 8 --max-tokens 50; prints "stream"
works bf16 "$program" --device cpu sample --checkpoint "$model" --prompt "To be" --tokens 8 --bf16-weights
works quantize "$program" quantize "$model" --weights int8 --out "$work/int8.safetensors"; prints "int8.safetensors"
works int8 "$program" --device cpu sample "$model" --prompt "To be" --tokens 20 --weights int8; cp "$work/out" "$work/rounded"
works int8-file "$program" --device cpu sample "$work/int8.safetensors" --prompt "To be" --tokens 20
cmp -s "$work/out" "$work/rounded" || fail "a file of int8 weights gave another text than the weights rounded when loaded"
works int8-eval "$program" --device cpu eval "$work/int8.safetensors" --set data.train="$work/text.txt" --set data.validation_fraction=0.2; prints "nats per token"
works int8-info "$program" info "$work/int8.safetensors"; prints "^weights  *int8"
works quantize-fp8 "$program" quantize "$model" --weights fp8 --out "$work/fp8.safetensors"; prints "fp8.safetensors"
cmp -s "$work/fp8.safetensors" "$work/int8.safetensors" && fail "quantize --weights fp8 wrote int8"
works fp8 "$program" --device cpu sample "$model" --prompt "To be" --tokens 20 --weights fp8; cp "$work/out" "$work/rounded"
works fp8-file "$program" --device cpu sample "$work/fp8.safetensors" --prompt "To be" --tokens 20
cmp -s "$work/out" "$work/rounded" || fail "a file of fp8 weights gave another text than the weights rounded when loaded"
works fp8-eval "$program" --device cpu eval "$work/fp8.safetensors" --set data.train="$work/text.txt" --set data.validation_fraction=0.2; prints "nats per token"
works fp8-info "$program" info "$work/fp8.safetensors" --json; prints '"weights": "fp8"'
works fp8-requantized "$program" quantize "$work/fp8.safetensors" --weights fp8 --out "$work/again.safetensors"
cmp -s "$work/fp8.safetensors" "$work/again.safetensors" || fail "a file of fp8 weights changed when quantized again"
refuses 2 "'fp16' is unknown" "$program" quantize "$model" --weights fp16 --out "$work/x.safetensors"
works bench-int8 "$program" --device cpu bench decode --checkpoint "$work/int8.safetensors" --batch 1,2 --tokens 4; prints '"weights": "i8"'
refuses 2 "'int4' is unknown" "$program" sample "$model" --prompt x --weights int4
refuses 2 "bf16-weights" "$program" sample "$model" --prompt x --weights int8 --bf16-weights
works bench-decode "$program" --device cpu bench decode --checkpoint "$model" --batch 1,2 --tokens 4 --bf16-weights; prints '"fraction"'
works explain "$program" config --explain model; prints "model.latents"
for config in "$source"/configs/*.yaml "$source"/configs/*/*.yaml; do works "$config" "$program" config "$config"; prints "context_length"; done
works bench "$program" bench train --config "$source/configs/copy32.yaml" --set train.batch=2 --steps 2 --warmup 1; prints '"tflops"'

# Differences of two runs that should be the same, except times in the metrics.
differences() {
  for run in "$1" "$2"; do sed -E 's/"(targets_per_second|inputs_per_second|elapsed|memory_bytes|validation_seconds)":[^,}]*//g' "$run/metrics.jsonl" > "$run/timeless"; done
  diff "$1/timeless" "$2/timeless"; diff "$1/config.yaml" "$2/config.yaml"
  (cd "$1/checkpoints" && cksum step-*/*.safetensors); (cd "$2/checkpoints" && cksum step-*/*.safetensors)
}

# A run that is stopped and resumed ends with the same bytes as an uninterrupted one, given the same number of threads
# (by default that of the processors, which in a container may change from one process to the next).
small="$source/configs/copy32.yaml --set model.input_channels=32 --set model.layers=1 --set train.batch=4 --set eval.every=0 --set eval.max_documents=4 --set threads=2"
works train "$program" train $small --set train.steps=12 --set checkpoint.every=5 --run "$work/whole"
works first-half "$program" train $small --set train.steps=12 --set checkpoint.every=5 --run "$work/parts"
rm -r "$work/parts/checkpoints/step-000000012" "$work/parts/checkpoints/step-000000010"; rm -f "$work/parts/checkpoints/best"
works resume "$program" train $small --set train.steps=12 --set checkpoint.every=5 --run "$work/parts" --resume
for file in model optimizer; do
  cmp -s "$work/whole/checkpoints/step-000000012/$file.safetensors" "$work/parts/checkpoints/step-000000012/$file.safetensors" || fail "resumed $file differs; $(nproc) processors; $(differences "$work/whole" "$work/parts")"
done
refuses 2 "resume" "$program" train $small --set train.steps=12 --run "$work/whole"

# A file size limit acts as a full disk: the run ends with one error line, and the last checkpoint is intact.
works before-limit "$program" train $small --set train.steps=2 --run "$work/limited"
limited() { (ulimit -f 32; exec "$program" train $small --set train.steps=4 --run "$work/limited" --resume); }
limited > "$work/out" 2> "$work/err"; [ $? -eq 1 ] || fail "file size limit: wrong exit code"
grep -q "^perceiver: error: .*File too large" "$work/err" || fail "file size limit: $(cat "$work/err")"
works after-limit "$program" train $small --set train.steps=4 --run "$work/limited" --resume

# A run that was killed before it saved anything is not overwritten; --resume starts it over.
rm -r "$work/limited/checkpoints"
refuses 2 "saved no checkpoint" "$program" train $small --set train.steps=2 --run "$work/limited"
works start-over "$program" train $small --set train.steps=2 --run "$work/limited" --resume

# Endless brackets are damage, not a crash.
head -c 200000 /dev/zero | tr '\0' '[' > "$work/limited/checkpoints/step-000000002/state.json"
refuses 2 "nested more than" "$program" info "$work/limited"
refuses 2 "nested more than" "$program" train $small --set train.steps=2 --run "$work/limited" --resume

# SIGINT during a validation: saved, nothing recorded, exit code 0.
slow="$small --set train.steps=2 --set eval.max_documents=100000000 --set eval.stride=1"
"$program" train $slow --run "$work/slow" > "$work/out" 2> "$work/err" & running=$!
until grep -q "step 2/2" "$work/err" || ! kill -0 $running 2> /dev/null; do sleep 0.1; done
kill -INT $running; wait $running; [ $? -eq 0 ] || fail "stop in a validation: $(cat "$work/err")"
grep -q "stopped; continue with --resume at step 2" "$work/err" || fail "stop in a validation: $(cat "$work/err")"
grep -q validation_loss "$work/slow/metrics.jsonl" && fail "a validation that was stopped is recorded"
works run-info "$program" info "$work/whole"; prints "validation loss"; prints "context projection *direct"
works config-info "$program" info "$source/configs/bench/copy131k.yaml"; prints "% saved"
works run-eval "$program" eval --checkpoint "$work/whole" --max-documents 4; prints "bits per token"
works run-sample "$program" sample --checkpoint "$work/whole" --tokens 5 --prompt x

# Messages: --log-level, --quiet, and --log-file, which appends lines with time and level.
short="$small --set train.steps=2 --set train.log_every=1"
log=$work/messages.log
shows() { grep -q -- "$1" "$work/err" || fail "$what: expected '$1' in: $(cat "$work/err")"; }
silent() { [ -s "$work/err" ] && fail "$what: not silent: $(cat "$work/err")"; prints "step-000000002"; }

# Fine-tuning, with samples and early stopping.
works fine-tune "$program" train $short --run "$work/fine" --set train.initialize="$work/whole" --set train.sample_every=2 --set train.sample_tokens=8
shows "^starting from $work/whole/checkpoints/.*parameters taken over"; shows "^step 2  sample $work/fine/samples/step-000000002"
[ -s "$work/fine/samples/step-000000002.txt" ] || fail "no sample was written"
works "a model's configuration" "$program" config "$work/whole" --set train.steps=1; prints "initialize: $work/whole"
cp "$work/out" "$work/own.yaml"; works "fine-tune by it" "$program" train "$work/own.yaml" --run "$work/own" --quiet
refuses 2 "model.layers is .* there, 7 here" "$program" train $short --run "$work/fine2" --set train.initialize="$work/whole" --set model.layers=7
works early "$program" train $short --run "$work/early" --set train.steps=9 --set eval.every=1 --set train.early_stopping=1 --set train.early_stopping_delta=100; shows "^stopped by train.early_stopping at step 2"

works log-info "$program" train $short --run "$work/log1"; shows "^step 2/2  loss"; shows "^finished at step 2"; shows "^model .* parameters"
works log-debug "$program" train $short --run "$work/log2" --log-level debug; shows "^finished at step 2"
works log-warning "$program" --log-level warning train $short --run "$work/log3"; silent
works log-quiet "$program" train $short --run "$work/log4" --quiet --log-file "$log"; silent
works log-off "$program" train $short --run "$work/log5" --log-level off --log-file "$log"; silent
[ "$(grep -cE '^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+[+-][0-9]{2}:[0-9]{2} info .' "$log")" -eq "$(wc -l < "$log")" ] || fail "log file: $(cat "$log")"
refuses 2 "holds a run" "$program" train $short --run "$work/log5" --quiet --log-file "$log"
grep -q "info step 1/2  loss" "$log" || fail "no progress left in the log file: $(cat "$log")"
grep -q "T[^ ]* error $work/log5 already holds a run" "$log" || fail "no error in the log file: $(tail -1 "$log")"
"$program" train $short --run "$work/log5" --log-level off > "$work/out" 2> "$work/err"; [ $? -eq 2 ] && [ ! -s "$work/err" ] || fail "--log-level off: $(cat "$work/err")"
refuses 2 "level 'warn' is unknown; did you mean 'warning'" "$program" config "$source/configs/copy32.yaml" --log-level warn
refuses 2 "log-file: cannot open .*none/log.*No such file" "$program" config "$source/configs/copy32.yaml" --log-file "$work/none/log"
works no-stderr sh -c "exec \"\$@\" 2>&-" sh "$program" train $short --run "$work/log6"; prints "step-000000002"
if [ -w /dev/full ]; then works full-log "$program" train $short --run "$work/log7" --log-file /dev/full; shows "^perceiver: warning: the log: .*No space left"; fi

# On a terminal the progress line is rewritten in place, and messages appear below it.
if command -v script > /dev/null; then
  script -qec "$program train $short --run $work/log8" /dev/null < /dev/null > "$work/out" || fail "on a terminal: $(cat "$work/out")"
  escape=$(printf '\033')
  tr '\r' '~' < "$work/out" > "$work/terminal"
  grep -q "^~$escape\[Kstep 1/2  loss[^~]*~$escape\[Kstep 2/2  loss[^~]*~\$" "$work/terminal" || fail "progress on a terminal: $(cat -v "$work/out")"
  grep -q "^finished at step 2~\$" "$work/terminal" || fail "message on a terminal: $(cat -v "$work/out")"
fi

printf 'model:\n  latnts: 4\n' > "$work/typo.yaml"
refuses 2 "typo.yaml:2.*latnts.*latents" "$program" config "$work/typo.yaml"
refuses 2 "did you mean 'sample'" "$program" sampl
refuses 2 "no such checkpoint" "$program" info "$work/none"
refuses 2 "temperature" "$program" sample --checkpoint "$model" --temperature nan
refuses 2 "top-p" "$program" sample --checkpoint "$model" --top-p 0
refuses 2 "policy" "$program" sample --checkpoint "$model" --policy best
refuses 2 "latents" "$program" sample --checkpoint "$model" --latents -3
refuses 2 "refill" "$program" sample --checkpoint "$model" --refill 1000
refuses 2 "tokens" "$program" sample --checkpoint "$model" --tokens -1
refuses 2 "count" "$program" sample --checkpoint "$model" --count 0
refuses 2 "stop token 999" "$program" sample --checkpoint "$model" --stop-token 999
refuses 2 "ID=VALUE" "$program" sample --checkpoint "$model" --logit-bias 5:1
refuses 2 "stop string" "$program" sample --checkpoint "$model" --stop ""
refuses 2 "cannot open.*none.txt" "$program" sample --checkpoint "$model" --prompts-file "$work/none.txt"
refuses 2 "policy: 'best' is unknown" "$program" eval --checkpoint "$model" --policy best
refuses 2 "either --config or --checkpoint" "$program" bench decode
refuses 2 "validation" "$program" eval --checkpoint "$model" --split valid
head -c 1000 "$model" > "$work/cut.safetensors"
refuses 2 "cut.safetensors" "$program" info "$work/cut.safetensors"
exit $failed
