#!/bin/sh
# perceiver serve as a user starts it: address, answers, mistakes of clients, the end by a signal; in a browser where there is one.
#   serve_test.sh PROGRAM SOURCE_FOLDER
# Screenshots go to $PERCEIVER_SCREENSHOTS, if that is set.
. "$2/tests/program/commands.sh"

command -v curl > /dev/null || { echo "skipped: curl is not installed"; exit 0; }
server=
training=
trap 'kill $server $training 2> /dev/null; rm -rf "$work"' EXIT

# start ARGUMENTS...: runs the server in the background; $address without the last slash
start() {
  rm -f "$work/address"  # the last server's: the shell that starts this one may take a while to empty it
  "$program" --device cpu serve "$@" --port 0 > "$work/address" 2> "$work/log" &
  server=$!
  for i in $(seq 300); do [ -s "$work/address" ] && break; sleep 0.1; done
  address=$(head -1 "$work/address" | sed 's,/\(?.*\)*$,,')
  [ -n "$address" ] || fail "the server did not start: $(cat "$work/log")"
}
# stop SIGNAL: the server ends cleanly, and soon
stop() {
  kill -"$1" "$server"
  for i in $(seq 80); do kill -0 "$server" 2> /dev/null || break; sleep 0.1; done
  kill -0 "$server" 2> /dev/null && fail "SIG$1 does not end the server"
  wait "$server"; code=$?; server=
  [ $code -eq 0 ] || fail "after SIG$1: exit code $code: $(cat "$work/log")"
}
# post PATH JSON [OPTION...]: the answer in $work/out, its status in $status
post() {
  path=$1; json=$2; shift 2
  status=$(curl -sS -m 60 -o "$work/out" -w '%{http_code}' -H 'Content-Type: application/json' -d "$json" "$@" "$address$path")
}
answers() { [ "$status" = "$1" ] || fail "status $status, not $1: $(cat "$work/out")"; }

model=$work/text.safetensors
works import "$program" import "$source/tests/golden/rotary_ragged.safetensors" --out "$model"
small="--set model.input_channels=32 --set model.layers=1 --set model.latents=16 --set train.steps=2 --set train.batch=2 --set eval.max_documents=1 --set data.validation_fraction=0.3"
mkdir "$work/pictures" "$work/tunes" "$work/sounds"
for seed in png_rgb png_grey png_palette; do cp "$source/fuzz/seeds/image/$seed" "$work/pictures/$seed.png"; done
for seed in format0 format1 format2; do cp "$source/fuzz/seeds/midi/$seed" "$work/tunes/$seed.mid"; done
for seed in pcm16_mono pcm16_stereo_44k pcm24; do cp "$source/fuzz/seeds/audio/$seed" "$work/sounds/$seed.wav"; done
head -c 20000 "$source/README.md" > "$work/book.txt"
works text "$program" train "$source/configs/quickstart.yaml" $small --set data.train="$work/book.txt" --run "$work/text"
works pictures "$program" train "$source/configs/quickstart_image.yaml" $small --set data.options='{size: 4}' --set data.train="$work/pictures" --set model.context_length=48 --set model.position_sizes='[6, 6, 5]' --run "$work/image"
works tunes "$program" train "$source/configs/quickstart_music.yaml" $small --set data.train="$work/tunes" --set model.context_length=64 --run "$work/music"
works sounds "$program" train "$source/configs/spoken_digits.yaml" $small --set schedule.until=0 --set model.context_length=64 --set model.cross_heads=2 --set model.self_heads=2 --set data.options='{sample_rate: 8000}' --set data.train="$work/sounds" --run "$work/audio"

# Mistakes before the start.
refuses 2 "host 0.0.0.0: others can reach that address; give them a --token" "$program" serve "$work/text" --host 0.0.0.0
refuses 2 "two models would be called 'text'; name one, as in OTHER=" "$program" --quiet serve "$work/text" "$work/text"
refuses 2 "no such" "$program" serve "$work/nothing"

refuses 2 "nothing to serve: name a model, or a folder of training runs" "$program" serve
refuses 2 "runs $work/nothing: no such folder" "$program" serve --runs "$work/nothing"

"$program" --quiet --device cpu --threads 1 train "$source/configs/quickstart.yaml" $small --set train.steps=10000000 --set train.max_minutes=60 --set train.log_every=100 --set data.train="$work/book.txt" --run "$work/live" > "$work/training" 2>&1 &
training=$!
mkdir -p "$work/music/samples"
cp "$work/tunes/format1.mid" "$work/music/samples/step-000000002.mid"
works report "$program" report "$work/text" "$work/music" --out "$work/report.html"
start "$work/text" "$work/image" "$work/music" "$work/audio" --slots 2 --runs "$work"
case $address in http://127.0.0.1:[1-9]*) ;; *) fail "an odd address: $address" ;; esac
status=$(curl -sS -o "$work/out" -w '%{http_code}' "$address/health"); answers 200; prints '"status":"ok"'
post /v1/completions '{"model": "text", "prompt": "Perceiver", "max_tokens": 5, "seed": 1, "ignore_eos": true}'; answers 200
"$program" --device cpu sample "$work/text" --prompt Perceiver --tokens 5 --seed 1 --ignore-eos --jsonl | sed 's/.*"text":"\([^"]*\)".*/\1/' > "$work/same"
prints "\"text\":\"$(head -1 "$work/same" | sed 's/[][\\.*^$]/\\&/g')\""
post /v1/completions '{"model": "text", "prompt": "Perceiver", "max_tokens": 5, "stream": true}' -N; answers 200; prints "^data: \[DONE\]"
post /v1/score '{"model": "text", "input": ["one", "two"]}'; answers 200; prints '"sum":-'
post /v1/generate '{"model": "music", "max_tokens": 20, "file_type": "mid", "raw": true}'; answers 200
[ "$(head -c 4 "$work/out")" = MThd ] || fail "no MIDI file"
post /v1/generate "{\"model\": \"image\", \"file\": \"$(base64 -w 0 "$work/pictures/png_rgb.png")\", \"rows\": 2, \"n\": 2}"; answers 200; prints '"pixels":"'
post /v1/generate '{"model": "audio", "sound": {"rate": 8000, "samples": [0, 0.5, -0.5]}, "max_tokens": 10}'; answers 200; prints '"samples":\['
post /v1/generate '{"model": "music", "notes": [{"start": 0, "end": 0.5, "pitch": 60}], "max_tokens": 20, "stream": true}'; answers 200; prints '"beginning":{"notes":\[{"start":0'
post /v1/generate '{"model": "music", "notes": [{"start": 0, "end": 1, "pitch": 200}]}'; answers 400; prints 'notes\[0\].pitch must be a whole number from 0 to 127'
post /v1/generate '{"model": "image", "notes": []}'; answers 400
post /v1/completions '{"model": "image"}'; answers 400; prints 'image is a model of image; use /v1/generate'
post /v1/completions '{"prompt": "x"}'; answers 400; prints 'model is missing; the choices: text, image, music, audio'
post /v1/completions '{'; answers 400; prints 'not valid JSON'
curl -sS "$address/metrics" > "$work/out"; prints 'perceiver_slots{model="text"} 2'

# Training runs, those that go on too.
for i in $(seq 300); do [ -s "$work/live/metrics.jsonl" ] && break; sleep 0.1; done
sleep 1.2  # the list is a second old at most
status=$(curl -sS -o "$work/out" -w '%{http_code}' "$address/v1/runs"); answers 200; prints '"id":"live","state":"running"'; prints '"id":"text","state":"finished","step":2,"steps":2'
status=$(curl -sS -o "$work/out" -w '%{http_code}' "$address/v1/runs/data?run=live"); answers 200; prints '"entries":\[{"step":100'
status=$(curl -sS -o "$work/out" -w '%{http_code}' --path-as-is "$address/v1/runs/sample?run=live&name=../config.yaml"); answers 404; prints "has no sample"

# A client that is killed frees its slot.
curl -sS -N -o /dev/null -H 'Content-Type: application/json' -d '{"model": "text", "prompt": "x", "max_tokens": 16000, "ignore_eos": true, "stream": true}' "$address/v1/completions" & client=$!
sleep 1; kill $client; wait $client 2> /dev/null; sleep 1
curl -sS "$address/metrics" > "$work/out"; prints 'perceiver_active_sequences{model="text"} 0'

# The pages, in a browser.
if command -v chromedriver > /dev/null && command -v python3 > /dev/null; then
  python3 "$source/tests/browser/pages.py" "$address" "${PERCEIVER_SCREENSHOTS:-$work/shots}" "$work/pictures/png_rgb.png" "$work/tunes/format1.mid" "$work/sounds/pcm16_mono.wav" "$work/report.html" > "$work/pages" 2>&1 || fail "the pages: $(cat "$work/pages")"
  cat "$work/pages"
else
  echo "skipped: the pages in a browser; install chromium, chromium-driver and python3"
fi
# A client library of OpenAI, where a virtual environment has one: PERCEIVER_OPENAI_PYTHON=venv/bin/python
if [ -n "${PERCEIVER_OPENAI_PYTHON:-}" ]; then
  works openai "$PERCEIVER_OPENAI_PYTHON" "$source/tests/peers/openai_client.py" "$address" text
else
  echo "skipped: OpenAI's client; set PERCEIVER_OPENAI_PYTHON to a Python that has the package openai"
fi
stop INT
kill $training; wait $training 2> /dev/null; training=

start --runs "$work"
status=$(curl -sS -o "$work/out" -w '%{http_code}' "$address/v1/runs"); answers 200; prints '"id":"live","state":"stopped"'
post /v1/completions '{"prompt": "x"}'; answers 404; prints 'this server has no models'
stop INT

# How a model's samples are best drawn reaches the pages.
works drawn "$program" quantize "$work/text" --weights int8 --out "$work/drawn.safetensors" --sampling temperature=0.7 --sampling top-p=0.9 --sampling tokens=50
start "$work/drawn.safetensors"
status=$(curl -sS -o "$work/out" -w '%{http_code}' "$address/v1/models"); answers 200; prints '"id":"drawn"'; prints '"sampling":{"temperature":0.7,"top_p":0.9,"max_tokens":50}'
stop INT

start "$work/text" --token secret
post /v1/completions '{"prompt": "x"}'; answers 401; prints 'a token is needed'
post /v1/completions '{"prompt": "x", "max_tokens": 1}' -H 'Authorization: Bearer secret'; answers 200
grep -q '/?token=secret$' "$work/address" || fail "the address has no token: $(cat "$work/address")"
stop TERM
exit $failed
