#!/bin/sh
# perceiver sample: prompts from anywhere, results as they finish, files of text, the interactive mode.
#   sampling_test.sh PROGRAM SOURCE_FOLDER
. "$2/tests/program/commands.sh"

model=$work/model.safetensors
works import "$program" import "$source/tests/golden/rotary_ragged.safetensors" --out "$model"
sample() { what=$1; shift; works "$what" "$program" sample "$model" --tokens 6 "$@"; }
same() { cmp -s "$work/out" "$work/$1" || fail "$what: not the same as $1: $(head -c 300 "$work/out")"; }

# Prompts: Windows' line ends, byte order mark, blank lines, no last line end; JSON lines.
printf '\357\273\277the cat\r\n\r\n  \nand' > "$work/p.txt"
sample prompts --prompts-file "$work/p.txt" --json
prints '"prompt": "the cat"'; prints '"prompt": "and"'; [ "$(grep -c '"prompt"' "$work/out")" -eq 2 ] || fail "not two prompts"
printf '"a"\r\n\r\n{"prompt": "b"}\r\n' > "$work/p.jsonl"
sample json-prompts --prompts-file "$work/p.jsonl" --json; [ "$(grep -c '"prompt"' "$work/out")" -eq 2 ] || fail "not two prompts"
printf '\377\376a\000' > "$work/utf16.txt"
refuses 2 "utf16.txt: is UTF-16; prompts are UTF-8: iconv" "$program" sample "$model" --prompts-file "$work/utf16.txt"
refuses 2 "utf16.txt: is UTF-16" "$program" sample "$model" --prompt-file "$work/utf16.txt"

# A prompt from stdin is one from a file is one from the command line.
sample plain --prompt "To be"; cp "$work/out" "$work/plain"
printf 'To be' > "$work/to_be"
sample file --prompt-file "$work/to_be"; same plain
sample stdin --prompt-file - < "$work/to_be"; same plain
cat "$work/to_be" | "$program" sample "$model" --tokens 6 --prompt-file - > "$work/out"; what=pipe; same plain
sample stdin-lines --prompts-file - < "$work/to_be"; same plain
printf '\357\273\277To be' > "$work/marked"
sample marked --prompt-file "$work/marked"; same plain
sample limited --prompt-file "$source/README.md" --prompt-tokens 11; prints "^# Perceiver"

# Only the continuation.
sample continuation --prompt "To be" --no-echo
printf 'To be%s\n' "$(cat "$work/out")" > "$work/whole"; cmp -s "$work/whole" "$work/plain" || fail "--no-echo prints another continuation"

# Files of text hold what would be printed, whole characters only.
sample out --prompt "To be" --out "$work/f.txt"; prints "^$work/f.txt$"
printf '%s\n' "$(cat "$work/f.txt")" | cmp -s - "$work/plain" || fail "--out differs from what is printed"
sample out-several --prompt "To be" --count 2 --out "$work/g.txt"; prints "^$work/g-2.txt$"
cmp -s "$work/g-1.txt" "$work/f.txt" || fail "the first of several files is not what it is alone"
sample out-cut --prompt "日" --logit-bias 233=1000 --out "$work/cut.txt"  # E6, which starts a character, again and again
iconv -f UTF-8 -t UTF-8 "$work/cut.txt" > /dev/null || fail "--out: a cut character: $(od -c "$work/cut.txt" | head -3)"
refuses 2 "x.png: this model's samples are written as .txt" "$program" sample "$model" --out "$work/x.png"

# Several results: text in the order of the prompts, JSON lines as they finish.
sample texts --prompts-file "$work/p.txt" --count 2; [ "$(grep -c '^--- [1234]$' "$work/out")" -eq 4 ] || fail "not four texts"
sample lines --prompts-file "$work/p.txt" --count 2 --best-of 2 --jsonl; [ "$(wc -l < "$work/out")" -eq 4 ] || fail "not four lines"
prints '"prompt_index":1,"continuation":1,"prompt":"and"'
# Of 200 results, one after the other, so that there are more to come whenever this looks.
"$program" sample "$model" --prompts-file "$work/p.txt" --count 100 --batch 1 --tokens 4000 --ignore-eos --jsonl > "$work/out" 2> "$work/err" & running=$!
for i in $(seq 600); do [ -s "$work/out" ] && break; sleep 0.1; done
kill -0 $running 2> /dev/null && [ "$(wc -l < "$work/out")" -ge 1 ] || fail "the first line does not come before the last result"
kill $running 2> /dev/null; wait $running 2> /dev/null

# A random seed is named, and gives the same text again.
sample random --prompt x --seed random --json; cp "$work/out" "$work/random"
seed=$(sed -n 's/^seed \([0-9]*\); repeat with --seed \1$/\1/p' "$work/err"); [ -n "$seed" ] || fail "no seed: $(cat "$work/err")"
prints "\"seed\": $seed$"
sample repeated --prompt x --seed "$seed" --json; same random

# Interactive, without a terminal: a line, an answer.
printf 'To be\r\n\nTo be\n/continue\n/quit\nnever\n' > "$work/lines"
sample interactive --interactive --temperature 0 < "$work/lines"
[ "$(wc -l < "$work/out")" -ge 3 ] || fail "interactive: not three answers: $(cat "$work/out")"
[ -s "$work/err" ] && fail "interactive: a prompt without a terminal"
sample greedy --prompt "To be" --temperature 0 --no-echo; cp "$work/out" "$work/greedy"
sample alone -i --temperature 0 < "$work/to_be"; same greedy

# On a terminal: Ctrl-C ends the answer, not the program; Ctrl-D ends it.
if command -v python3 > /dev/null; then
  python3 "$source/tests/program/interactive.py" "$program" sample "$model" --interactive --tokens 1000000 --ignore-eos > "$work/out" 2>&1 || fail "on a terminal: $(tail -5 "$work/out")"
fi
exit $failed
