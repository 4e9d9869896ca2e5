#!/usr/bin/env python3
"""Compares the training losses of two runs: compare_losses.py RUN RUN TOLERANCE. Exits 1 if they differ by more."""
import json
import sys


def losses(run):
    with open(f"{run}/metrics.jsonl") as lines:
        entries = [json.loads(line) for line in lines]
    return {e["step"]: e["loss"] for e in entries if "gradient_norm" in e or "grad_norm" in e}


first, second = losses(sys.argv[1]), losses(sys.argv[2])
if len(first) < 10 or first.keys() != second.keys():
    sys.exit(f"the runs logged {len(first)} and {len(second)} steps")
worst = max(abs(first[step] - second[step]) for step in first)
last = max(first)
print(f"   {len(first)} steps, largest difference {worst:.2e}, last losses {first[last]:.5f} {second[last]:.5f}")
sys.exit(worst > float(sys.argv[3]))
