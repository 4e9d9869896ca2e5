#!/bin/sh
# Claims 2 to 5 together on one device: their runs do not need it for themselves, only what is timed does.
#   bench/claims/all.sh BUILD cuda|cpu [OPTIONS OF THE SCRIPTS]
# What is finished is kept: the same command continues after an interruption.
set -u
cd "$(dirname "$0")"
./larger_context.py "$@" & context=$!
./order.py "$@" & order=$!
./context_dropout.py "$@" & dropout=$!
failed=0
for script in $context $order $dropout; do wait "$script" || failed=1; done
./fewer_latents.py "$@" || failed=1
exit $failed
