#!/bin/sh
# Training runs as people start, stop and disturb them.
#   train_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

head -c 20000 "$source/docs/model.md" > "$work/text.txt"
tiny="$source/configs/quickstart.yaml --set data.train=$work/text.txt --set model.context_length=64 --set model.latents=16 --set model.input_channels=16 --set model.layers=1 --set train.batch=2 --set train.max_minutes=0 --set eval.max_documents=1 --set threads=1 --device cpu"
long="$tiny --set train.steps=1000000 --set train.log_every=1"
shows() { grep -q -- "$1" "$work/err" || fail "$what: expected '$1' in: $(cat "$work/err")"; }
hides() { grep -q -- "$1" "$work/err" && fail "$what: unexpected '$1' in: $(cat "$work/err")"; }
# until_seen PATTERN FILE: waits for a line of a run in the background, or its end
until_seen() { until grep -q -- "$1" "$2" 2> /dev/null || ! kill -0 $running 2> /dev/null; do sleep 0.1; done; }
saved() { ls "$1/checkpoints" | grep -c '^step-'; }
# tensors RUN: checksums of the newest checkpoint's tensors that do not hold the configuration
tensors() { cksum < "$(ls -d "$1"/checkpoints/step-* | tail -1)/optimizer.safetensors"; }

# A dry run says what there is to say, and writes nothing.
cd "$work" || exit 1
works dry-run "$program" train $tiny --dry-run
for line in '^model   perceiver_ar, .* parameters' '^data    text: train 1 document' '^device  cpu, 1 thread' '^memory  about .* MiB' '^steps   3000 of 2 examples' '^time    .* a step' '^used    .* in tensors'; do shows "$line"; done
[ -s "$work/out" ] && fail "dry run: output: $(cat "$work/out")"
[ -e "$work/runs" ] && fail "dry run: left $(find "$work/runs")"
refuses 2 "dry-run" "$program" train $tiny --dry-run --resume

# Start and end.
works start "$program" train $tiny --set train.steps=6 --run "$work/my run"
prints "/my run/checkpoints/step-000000006"
[ "$(wc -l < "$work/out")" -eq 1 ] || fail "start: more than the checkpoint on stdout: $(cat "$work/out")"
for line in '^model ' '^data ' '^device ' '^memory ' '^steps ' '^run     .*/my run' '^finished at step 6' 'of training, .* tokens/s' '^best validation .* bits per byte at step 6' '^next:' "sample --checkpoint '.*/my run' --prompt" "eval --checkpoint '.*/my run' --split validation"; do shows "$line"; done
grep -o "^  .* eval --checkpoint .*" "$work/err" > "$work/next.sh"; works next sh "$work/next.sh"
[ "$(wc -l < "$work/my run/environment.jsonl")" -eq 1 ] || fail "environment: $(cat "$work/my run/environment.jsonl")"
grep -q '"command":\[".*","train",.*"--run",".*/my run"\]' "$work/my run/environment.jsonl" || fail "environment: $(cat "$work/my run/environment.jsonl")"
[ -e "$work/my run/skipped_files.jsonl" ] && fail "a list of skipped files without any"
works quiet "$program" train $tiny --set train.steps=2 --run "$work/quiet" --quiet; [ -s "$work/err" ] && fail "quiet: $(cat "$work/err")"

# What people look at afterwards.
works runs "$program" runs "$work"; prints "my run .*finished.*step 6/6 .*nats, .* bits per byte at step 6"
works report "$program" report "$work/my run" "$work/quiet" --out "$work/report.html"; prints "report.html: 2 runs"
grep -q '"name":"my run"' "$work/report.html" || fail "the report lacks a run"
refuses 2 "no run folder" "$program" report "$source"
refuses 2 "no such run folder" "$program" report "$work/nothing"
mkdir "$work/empty"; works "no runs" "$program" runs "$work/empty"; prints "no runs in"

# A schedule that follows the clock: it says so, uses the time, ends as after a last step, and goes on with the time that is left.
clocked="$tiny --set train.log_every=1 --set schedule.until"
works "clock, dry run" "$program" train $clocked=20m --dry-run; shows "^steps   as many as 20m allow, of 2 examples"; shows "steps in the 20m of schedule.until"
works clock "$program" train $clocked=2s --run "$work/clock"
for line in "step 3  loss" "0:00 left" "^finished at step" "best validation .* bits per byte"; do shows "$line"; done
rate=$(grep -o '"learning_rate":[^,]*' "$work/clock/metrics.jsonl" | tail -1 | cut -d: -f2)
awk "BEGIN { exit !($rate >= 0.0002 && $rate < 0.00025) }" || fail "clock: the last learning rate is $rate, not nearly the final 0.0002"
[ -e "$work/clock/checkpoints/best" ] || fail "clock: no best checkpoint"
works "clock, runs" "$program" runs "$work"; prints "clock .*finished.*step [0-9]* .*bits per byte"
: > "$work/err"; "$program" train $clocked=1.5h --run "$work/slow" > "$work/out" 2> "$work/err" & running=$!
until_seen "step 3 " "$work/err"; kill -INT $running; wait $running; [ $? -eq 0 ] || fail "clock, SIGINT: $(cat "$work/err")"
works "clock, runs" "$program" runs "$work"; prints "slow .*stopped"
works "clock, resume" "$program" train $clocked=4s --run "$work/slow" --resume; shows "^finished at step"; hides "step 1 "
refuses 2 "schedule.until must be a length of time such as 90s, 20m or 1.5h, or 0, not '20'" "$program" train $clocked=20
refuses 2 "schedule.until needs schedule.type: cosine or linear" "$program" train $clocked=20m --set schedule.type=constant
refuses 2 "schedule.until and schedule.decay_steps (100) both say when the decay ends" "$program" train $clocked=20m --set schedule.decay_steps=100

# The end of the terminal stops a run as Ctrl-C does; the command that continues it works.
: > "$work/err"; "$program" train $long --run "$work/hup" > "$work/out" 2> "$work/err" & running=$!
until_seen "step 3/" "$work/err"; kill -HUP $running; wait $running; [ $? -eq 0 ] || fail "SIGHUP: $(cat "$work/err")"
what=SIGHUP; shows "^stopped; continue with --resume"; shows "^  .* train .* --resume$"
[ "$(saved "$work/hup")" -eq 1 ] || fail "SIGHUP saved nothing"
# Under nohup it goes on.
: > "$work/err"; nohup "$program" train $tiny --set train.steps=300 --set train.log_every=1 --run "$work/nohup" > "$work/out" 2> "$work/err" & running=$!
until_seen "step 3/" "$work/err"; kill -HUP $running; wait $running; [ $? -eq 0 ] || fail "nohup: $(cat "$work/err")"
what=nohup; shows "^finished at step 300"

# Nobody reads the messages: the run goes on to its end.
works whole "$program" train $tiny --set train.steps=300 --set train.log_every=1 --run "$work/whole"
"$program" train $tiny --set train.steps=300 --set train.log_every=1 --run "$work/pipe" 2>&1 | head -3 > "$work/out"
[ "$(tensors "$work/pipe")" = "$(tensors "$work/whole")" ] || fail "broken pipe: another result, $(ls "$work/pipe/checkpoints")"
# Nothing of the program's own ends up in files that got the numbers of closed descriptors.
"$program" train $tiny --set train.steps=300 --set train.log_every=1 --run "$work/closed" 0<&- 1>&- 2>&-
[ "$(tensors "$work/closed")" = "$(tensors "$work/whole")" ] || fail "closed descriptors: another result"
[ "$(grep -c '^{"step":[0-9]*,.*}$' "$work/closed/metrics.jsonl")" -eq "$(wc -l < "$work/whole/metrics.jsonl")" ] || fail "closed descriptors: $(head -3 "$work/closed/metrics.jsonl")"
[ "$(wc -l < "$work/closed/metrics.jsonl")" -eq "$(wc -l < "$work/whole/metrics.jsonl")" ] || fail "closed descriptors: $(head -3 "$work/closed/metrics.jsonl")"
cmp -s "$work/closed/config.yaml" "$work/whole/config.yaml" || fail "closed descriptors: $(diff "$work/closed/config.yaml" "$work/whole/config.yaml")"

# The run folder goes away.
: > "$work/err"; "$program" train $long --run "$work/gone" > "$work/out" 2> "$work/err" & running=$!
until_seen "step 3/" "$work/err"; rm -rf "$work/gone"
wait $running; [ $? -eq 1 ] || fail "removed folder: wrong exit code"
what="removed folder"; shows "^perceiver: error: .*/gone: the run folder was removed"; [ -e "$work/gone" ] && fail "removed folder: made again"
: > "$work/err"; "$program" train $long --run "$work/here" > "$work/out" 2> "$work/err" & running=$!
until_seen "step 3/" "$work/err"; mv "$work/here" "$work/there"
wait $running; [ $? -eq 1 ] || fail "moved folder: wrong exit code"
what="moved folder"; shows "^perceiver: error: .*/here: the run folder was moved to .*/there"; [ -e "$work/here" ] && fail "moved folder: made again"
[ "$(saved "$work/there")" -eq 1 ] || fail "moved folder: no checkpoint"

# The data change between stop and continuation.
cp "$work/text.txt" "$work/other.txt"
changing="$tiny --set data.train=$work/other.txt --run $work/changed"
works before-change "$program" train $changing --set train.steps=2
head -c 8000 "$work/text.txt" > "$work/other.txt"
refuses 2 "other.txt: the data has changed since step 2 of the run (train: 1 document of .* instead of" "$program" train $changing --set train.steps=4 --resume
refuses 2 "accept-new-data" "$program" train $tiny --set train.steps=4 --accept-new-data --run "$work/new"
works after-change "$program" train $changing --set train.steps=4 --resume --accept-new-data; shows "the run goes on with the new data"
works after-change-again "$program" train $changing --set train.steps=6 --resume; hides "has changed"
[ "$(wc -l < "$work/changed/environment.jsonl")" -eq 3 ] || fail "environment of three parts: $(cat "$work/changed/environment.jsonl")"
works info-run "$program" info "$work/changed"
for line in '^trained$' '^  from step 0$' '^  from step 4$' '^    version  *[0-9.]*, commit' '^    device  *cpu of .*, f32$' '^    command  *.* train .* --resume --accept-new-data$'; do prints "$line"; done
[ "$(grep -c '^  from step' "$work/out")" -eq 3 ] || fail "info: not three parts: $(cat "$work/out")"
works info-json "$program" info "$work/changed" --json; prints '"environments": \['; prints '"started": "20'
cp "$work/changed/checkpoints/step-000000006/model.safetensors" "$work/alone.safetensors"
works info-file "$program" info "$work/alone.safetensors"; grep -q '^trained' "$work/out" && fail "info: a model file knows where it was trained"
exit $failed
