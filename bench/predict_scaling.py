#!/usr/bin/env python3
"""Predicts step times on many H100s, and bytes per rank of a large model, for docs/distributed.md.

    bench/predict_scaling.py [--bucket MIB] [--billions PARAMETERS]

Prints the tables of the document. Measured are the step of one GPU and, on two GPUs, copies, flags, and what
waiting for each other costs (docs/benchmarks/h200.md); the rest follows from the formulas below, so that a
measured run can refute them.
"""
import argparse
import math
import os
import re

CONFIGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "configs", "bench")
STEP_MS = {"imagenet64": 91.2, "copy131k": 26.0, "music4k": 77.3, "small": 9.34}  # h200.md, 2026-11-30, the slower of two
RANKS = [2, 8, 64, 512]

GPUS_PER_NODE = 8
MEMORY = 3.4e12  # bytes/s of an update on an H200
# Copy engines, in a node: a copy takes COPY_S and its bytes; the flags of a turn take TURN_S; what arrives is
# added at ADD bytes/s by a kernel that the others make room for.
COPY_BANDWIDTH, COPY_S, TURN_S, ADD = 390e9, 3e-6, 25e-6, 3.0e12
# NCCL, between nodes: 8 x 400 Gb/s for a node, of which about 45 GB/s a GPU are used, in a ring of which every
# GPU has a part. Its constants for a ring with the protocol Simple (src/graph/tuning.cc): a call, a step in a
# node, a step between nodes. DELAY: what a transfer beside kernels delays them, of its own time.
RING_BANDWIDTH, DELAY = 360e9, 0.7
CALL_S, STEP_S, NET_STEP_S = 8.4e-6, 3.4e-6, 14e-6
CONTROL_S = 60e-6  # two sums of a few numbers, in a node
WAITING = 0.02  # of the pass: a step takes as long as that of the slowest GPU
BACKWARD = 2 / 3  # of a pass, beside which gradients are summed; the rest hides the gather of weights
EARLY = 1 / 4  # of the weights, gathered beside the update
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
    return size * (ranks - 1) / ranks


def by_copies(n, ranks, last, reductions, gathers):
    """Seconds in a node: of sums and gather, and what they add to a step."""
    def transfer(size, calls):
        return calls * (TURN_S + (ranks - 1) * COPY_S) + wire(size, ranks) / COPY_BANDWIDTH

    add = GRADIENT * n * (ranks + 1) / ranks / ADD
    update = UPDATE_BYTES * n / MEMORY / ranks
    reduce, gather = transfer(GRADIENT * n, reductions) + add, transfer(WEIGHT * n, gathers)
    final = 2 * TURN_S + wire(last, ranks) / COPY_BANDWIDTH  # the last bucket
    return reduce, gather, add + final + max(0, EARLY * (gather - update)) + CONTROL_S


def by_nccl(n, ranks, last, reductions, gathers, pass_s):
    """The same among nodes. Sums that do not fit beside backward are exposed, and so is the gather beside forward."""
    reduce = reductions * latency(ranks) + wire(GRADIENT * n, ranks) / RING_BANDWIDTH
    gather = gathers * latency(ranks) + wire(WEIGHT * n, ranks) / RING_BANDWIDTH
    final = 3 * latency(ranks) + wire(last, ranks) / RING_BANDWIDTH
    beside = min(reduce - final, BACKWARD * pass_s), min((1 - EARLY) * gather, (1 - BACKWARD) * pass_s)
    return reduce, gather, reduce + gather - (1 - DELAY) * sum(beside) + 2 * latency(ranks)


def step(name, ranks, batch, bucket):
    """Seconds of a step of `batch` examples per GPU, and its parts."""
    config = read_yaml(os.path.join(CONFIGS, name + ".yaml"))
    n, block = parameters(config["model"])
    measured_batch, layers = int(config["train"]["batch"]), int(config["model"]["layers"])
    update = UPDATE_BYTES * n / MEMORY
    pass_s = (STEP_MS[name] / 1e3 - update) / measured_batch * batch  # the products' efficiency stays
    last_pass = pass_s * min(batch, measured_batch) / batch  # the last micro-batch
    last = min(bucket, GRADIENT * (n - layers * block))
    reductions, gathers = calls(config["model"], ranks, bucket)
    if ranks <= GPUS_PER_NODE:
        reduce, gather, added = by_copies(n, ranks, last, reductions, gathers)
    else:
        reduce, gather, added = by_nccl(n, ranks, last, reductions, gathers, last_pass)
    compute = pass_s + update / ranks
    return {"n": n, "total": compute + WAITING * pass_s + added, "compute": compute, "reduce": reduce, "added": added, "gather": gather}


def weak(bucket):
    print(f"| configuration | parameters | GPUs | examples | compute, ms | sums, ms | gather, ms | both add, ms | step, ms | efficiency |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name, one in STEP_MS.items():
        batch = int(read_yaml(os.path.join(CONFIGS, name + ".yaml"))["train"]["batch"])
        for ranks in RANKS:
            s = step(name, ranks, batch, bucket(ranks))
            print(f"| {name} | {s['n'] / 1e6:.1f}M | {ranks} | {ranks * batch} | {s['compute'] * 1e3:.1f} | {s['reduce'] * 1e3:.1f} "
                  f"| {s['gather'] * 1e3:.1f} | {s['added'] * 1e3:.1f} | {s['total'] * 1e3:.1f} | {one / s['total'] / 10:.0f}% |")


def strong(bucket, examples=512):
    print("| configuration | " + " | ".join(f"{r} GPUs, ms" for r in RANKS[1:]) + " | " + " | ".join(f"speed-up {RANKS[1]} to {r}" for r in RANKS[2:]) + " |")
    print("|---" * (2 * len(RANKS) - 2) + "|")
    for name in STEP_MS:
        times = [step(name, ranks, examples // ranks, bucket(ranks))["total"] for ranks in RANKS[1:]]
        speed = [f"{times[0] / t:.1f} of {r // RANKS[1]}" for t, r in zip(times[1:], RANKS[2:])]
        print(f"| {name} | " + " | ".join(f"{t * 1e3:.1f}" for t in times) + " | " + " | ".join(speed) + " |")


def bytes_per_rank(n, shard, ranks, bucket, average):
    state = MASTER + MOMENTS + (AVERAGE if average else 0)
    if shard == "none":
        return n * (WEIGHT + GRADIENT + state)
    if shard == "optimizer":
        return n * (WEIGHT + GRADIENT) + n * state / ranks
    return n * WEIGHT + n * (GRADIENT + state) / ranks + 2 * bucket


def memory(n, bucket):
    print("| train.shard | " + " | ".join(f"{r} ranks" for r in RANKS[1:]) + " |")
    print("|---" * len(RANKS) + "|")
    for shard in ("none", "optimizer", "gradients"):
        for average in (False, True):
            cells = [f"{bytes_per_rank(n, shard, r, bucket(r), average) / 1e9:.1f} GB" for r in RANKS[1:]]
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
