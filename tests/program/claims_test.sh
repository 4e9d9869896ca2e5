#!/bin/sh
# The scripts that repeat the published claims (bench/claims), with models of a few steps: tables, plots, reruns, failures.
#   claims_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"
command -v python3 > /dev/null || { echo "skipped: needs python3"; exit 77; }

pictures="$work/data/tiny-imagenet"
mkdir -p "$work/data/pg19/train" "$work/data/pg19/validation" "$pictures/train" "$pictures/validation"
head -c 20000 "$source/docs/model.md" > "$work/data/pg19/train/a.txt"
head -c 5000 "$source/docs/data.md" > "$work/data/pg19/validation/b.txt"
for seed in png_rgb png_grey; do cp "$source/fuzz/seeds/image/$seed" "$pictures/train/$seed.png"; done
cp "$pictures/train/png_rgb.png" "$pictures/validation"
places="$(dirname "$program") cpu --data $work/data --runs $work/runs --out $work/tables --threads 1"
small="--set model.layers=1 --set model.input_channels=16 --set model.self_heads=1 --set train.batch=1 --set train.log_every=1"

# has FILE ROWS PATTERN: so many rows match
has() { [ "$(grep -c "$3" "$work/tables/$1.tsv")" -eq "$2" ] || fail "$1.tsv has not $2 rows with '$3': $(cat "$work/tables/$1.tsv")"; }
drawn() { [ -s "$work/tables/$1_cpu.svg" ] || fail "no plot $1_cpu.svg"; }

works "claims 2 to 5" "$source/bench/claims/all.sh" $places $small --steps 3 --together 2
has larger_context 5 "trained"; drawn larger_context
has order 5 "trained"
has context_dropout 5 "trained"; drawn context_dropout
has fewer_latents 10 "evaluated"; drawn fewer_latents
prints "^| 256 |"; prints "^| image | r_g_b |"

works "a rerun" "$source/bench/claims/larger_context.py" $places $small --steps 3
grep -q "^training" "$work/err" && fail "a finished run was trained again: $(cat "$work/err")"
works "other settings" "$source/bench/claims/larger_context.py" $places $small --steps 4 --contexts 256
grep -q "^training books_256_compared$" "$work/err" || fail "a run of other settings was kept: $(cat "$work/err")"
has larger_context 1 "trained"

works "a failure" "$source/bench/claims/larger_context.py" $places $small --steps 3 --contexts 64,256
has larger_context 1 "^cpu.64.*must not exceed"; has larger_context 1 "^cpu.256.*trained"

works "claim 1" "$source/bench/claims/equal_time.py" $places $small --minutes 0.02 --tries 1e-3,2e-3
has equal_time_final 3 "1e-3: [0-9.]*, 2e-3: [0-9.]*"; drawn equal_time

works "a copy run" "$program" train "$source/configs/copy32.yaml" $small --set train.steps=2 --set eval.max_documents=2 --device cpu --run "$work/copy"
works "claim 6" "$source/bench/claims/copy_length.py" $places --run "$work/copy" --lengths 16,32,64 --documents 2
has copy_length 2 "evaluated"; has copy_length 1 "^cpu.64.*must not exceed"; drawn copy_length
exit $failed
