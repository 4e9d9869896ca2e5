#!/bin/sh
# Claims 2 to 5 together on one device: their runs do not need it for themselves, only what is timed does.
#   bench/claims/all.sh BUILD cuda|cpu [OPTIONS OF THE SCRIPTS]
# What is finished is kept: the same command continues after an interruption.
set -eu
cd "$(dirname "$0")"
./larger_context.py "$@" & context=$!
./order.py "$@" & order=$!
./context_dropout.py "$@" & dropout=$!
wait $context
wait $order
wait $dropout
./fewer_latents.py "$@"
