#!/usr/bin/env python3
"""Predicts step times on many H100s, and bytes per rank of a large model, for docs/distributed.md.

    bench/predict_scaling.py [--bucket MIB] [--billions PARAMETERS]

Prints the tables of the document. Nothing in them is measured but the step of one GPU (docs/benchmarks/h100.md);
the rest follows from the formulas below, so that a measured run can refute them.
"""
import argparse
import math
import os
import re

CONFIGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configs", "bench")
STEP_MS = {"imagenet64": 108.2, "copy131k": 29.1, "music4k": 91.4, "small": 11.8}  # h100.md, 2026-11-28
RANKS = [8, 64, 512]

GPUS_PER_NODE = 8
BANDWIDTH = 360e9  # bytes/s of a ring over 8 GPUs with NVLink 4, or over nodes with 8 x 400 Gb/s: 8 x 45 GB/s
MEMORY = 3.0e12  # bytes/s of a copy on an H100
# NCCL's own constants for a ring with the protocol Simple (src/graph/tuning.cc): a call, a step in a node, a
# step between nodes.
CALL_S, STEP_S, NET_STEP_S = 8.4e-6, 3.4e-6, 14e-6
BACKWARD = 2 / 3  # of a step, beside which gradients are summed
SLICE = 16  # elements: parameters are divided among ranks in multiples of this
UPDATE_BYTES = 34  # per parameter: AdamW's reads and writes, and a pass for the norm

WEIGHT, GRADIENT, MASTER, MOMENTS, AVERAGE = 2, 4, 4, 8, 4  # bytes of a bf16 model


def read_yaml(path):
    """The sections of a configuration that has nothing but `section:` and `key: value`."""
    sections, section = {}, None
    for line in open(path):
        line = line.split("#")[0].rstrip()
        if re.match(r"\w+:$", line):
            section = sections.setdefault(line[:-1], {})
        elif match := re.match(r"\s+(\w+): (.+)$", line):
            section[match[1]] = match[2]
    return sections


def parameters(model):
    """Of a Perceiver AR with rotary positions and the default widths: all, and those of a self block."""
    v, layers, e = (int(model[key]) for key in ("vocabulary", "layers", "input_channels"))
    z = int(model.get("latent_channels", e))
    norm = lambda n: 2 * n
    linear = lambda a, b: a * b + b
    mlp = lambda n: linear(n, 4 * n) + linear(4 * n, n)
    block = norm(z) + 3 * linear(z, z) + linear(z, z) + norm(z) + mlp(z)
    cross = norm(z) + norm(e) + linear(z, z) + 2 * linear(e, z) + linear(z, z) + norm(z) + mlp(z)
    return v * e + linear(e, z) + cross + layers * block + norm(z) + linear(z, v), block


def bucket_bytes(ranks):
    """As the program chooses them (src/train/gradient_exchange.h)."""
    return 32 * 2**20 * min(max(ranks // 16, 1), 8)


def calls(model, ranks, bucket):
    """Collective calls of a step, counted by their ring steps: of the reduction, and of the gather. A block is not cut.
    Large blocks are padded to 8192 elements; what does not divide by 16 x ranks is all-reduced in a call of its
    own, which takes a ring twice."""
    n, block = parameters(model)
    layers = int(model["layers"])
    blocks = max(1, int(bucket // (GRADIENT * block)))
    inside, outside = math.ceil(layers / blocks), math.ceil(GRADIENT * (n - layers * block) / bucket)
    padded = math.ceil(block / 8192) * 8192 if block >= 2**19 else block
    rest = 2 if blocks * padded % (SLICE * ranks) else 0
    return inside * (1 + rest) + outside * 3, inside + outside


def latency(ranks):
    """Of a ring's reduce-scatter or all-gather: ranks - 1 steps, of which one fewer than nodes are between nodes."""
    nodes = math.ceil(ranks / GPUS_PER_NODE)
    return CALL_S + (ranks - nodes) * STEP_S + (nodes - 1) * NET_STEP_S


def wire(size, ranks):
    return size * (ranks - 1) / ranks / BANDWIDTH


def step(name, ranks, batch, bucket):
    """Seconds of a step of `batch` examples per GPU, and its parts."""
    config = read_yaml(os.path.join(CONFIGS, name + ".yaml"))
    n, block = parameters(config["model"])
    measured_batch, layers = int(config["train"]["batch"]), int(config["model"]["layers"])
    update = UPDATE_BYTES * n / MEMORY
    pass_s = (STEP_MS[name] / 1e3 - update) / measured_batch * batch  # the products' efficiency stays
    backward = BACKWARD * pass_s * min(batch, measured_batch) / batch  # of the last micro-batch
    reductions, gathers = calls(config["model"], ranks, bucket)
    reduce = reductions * latency(ranks) + wire(GRADIENT * n, ranks)
    final = 3 * latency(ranks) + wire(min(bucket, GRADIENT * (n - layers * block)), ranks)
    exposed = final + max(0, reduce - final - backward)
    gather = gathers * latency(ranks) + wire(WEIGHT * n, ranks)
    total = pass_s + update / ranks + exposed + gather + 2 * latency(ranks)
    return {"n": n, "total": total, "compute": pass_s + update / ranks, "reduce": reduce, "exposed": exposed, "gather": gather}


def weak(bucket):
    print(f"| configuration | parameters | GPUs | examples | compute, ms | reduction, ms | of it exposed | gather, ms | step, ms | efficiency |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, one in STEP_MS.items():
        batch = int(read_yaml(os.path.join(CONFIGS, name + ".yaml"))["train"]["batch"])
        for ranks in RANKS:
            s = step(name, ranks, batch, bucket(ranks))
            print(f"| {name} | {s['n'] / 1e6:.1f}M | {ranks} | {ranks * batch} | {s['compute'] * 1e3:.1f} | {s['reduce'] * 1e3:.1f} "
                  f"| {s['exposed'] * 1e3:.1f} | {s['gather'] * 1e3:.1f} | {s['total'] * 1e3:.1f} | {one / s['total'] / 10:.0f}% |")


def strong(bucket, examples=512):
    print(f"| configuration | " + " | ".join(f"{r} GPUs, ms" for r in RANKS) + " | " + " | ".join(f"speed-up {RANKS[0]} to {r}" for r in RANKS[1:]) + " |")
    print("|---" * (2 * len(RANKS)) + "|")
    for name in STEP_MS:
        times = [step(name, ranks, examples // ranks, bucket(ranks))["total"] for ranks in RANKS]
        speed = [f"{times[0] / t:.1f} of {r // RANKS[0]}" for t, r in zip(times[1:], RANKS[1:])]
        print(f"| {name} | " + " | ".join(f"{t * 1e3:.1f}" for t in times) + " | " + " | ".join(speed) + " |")


def bytes_per_rank(n, shard, ranks, bucket, average):
    state = MASTER + MOMENTS + (AVERAGE if average else 0)
    if shard == "none":
        return n * (WEIGHT + GRADIENT + state)
    if shard == "optimizer":
        return n * (WEIGHT + GRADIENT) + n * state / ranks
    return n * WEIGHT + n * (GRADIENT + state) / ranks + 2 * bucket


def memory(n, bucket):
    print("| train.shard | " + " | ".join(f"{r} ranks" for r in RANKS) + " |")
    print("|---" * (1 + len(RANKS)) + "|")
    for shard in ("none", "optimizer", "gradients"):
        for average in (False, True):
            cells = [f"{bytes_per_rank(n, shard, r, bucket(r), average) / 1e9:.1f} GB" for r in RANKS]
            print(f"| {shard}{', moving average' if average else ''} | " + " | ".join(cells) + " |")


def checkpoint(n):
    for average in (False, True):
        size = n * (MASTER + MOMENTS + (AVERAGE if average else 0))
        times = ", ".join(f"{size / speed / 1e9:.0f} s at {speed:g} GB/s" for speed in (0.5, 2, 10))
        print(f"{'with' if average else 'without'} moving average: {size / 1e9:.0f} GB; {times}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bucket", type=float, help="MiB of gradients that are summed in one call (default: as the program)")
    parser.add_argument("--billions", type=float, default=10, help="parameters of the model in the tables of bytes")
    options = parser.parse_args()
    bucket = (lambda ranks: options.bucket * 2**20) if options.bucket else bucket_bytes
    print("Weak scaling:\n")
    weak(bucket)
    print("\nStrong scaling, 512 examples a step:\n")
    strong(bucket)
    print(f"\nBytes per rank, {options.billions:g} billion parameters, bf16, AdamW:\n")
    memory(options.billions * 1e9, bucket)
    print("\nCheckpoint:")
    checkpoint(options.billions * 1e9)


if __name__ == "__main__":
    main()
