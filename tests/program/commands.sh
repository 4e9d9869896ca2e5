# Shared by the tests of the program. Sourced with the arguments PROGRAM SOURCE_FOLDER; a test ends with: exit $failed.
set -u
program=$1
source=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

fail() { echo "FAILED: $*"; failed=1; }
# works WHAT COMMAND...: exit code 0; output in $work/out
works() { what=$1; shift; "$@" > "$work/out" 2> "$work/err" || fail "$what: exit code $?: $(cat "$work/err")"; }
prints() { grep -q -- "$1" "$work/out" || fail "expected '$1' in: $(head -c 2000 "$work/out")"; }
# complains CODE PATTERN COMMAND...: that exit code, and a matching error line on stderr, maybe after other lines
complains() {
  code=$1; pattern=$2; shift 2
  "$@" > "$work/out" 2> "$work/err"
  got=$?
  [ $got -eq "$code" ] || fail "$*: exit code $got, not $code"
  grep -q "^perceiver: error: .*$pattern" "$work/err" || fail "$*: expected '$pattern' in: $(cat "$work/err")"
}
# refuses CODE PATTERN COMMAND...: the same, with no other line
refuses() {
  complains "$@"
  [ "$(wc -l < "$work/err")" -eq 1 ] || fail "$3 $4: not one line: $(cat "$work/err")"
}
