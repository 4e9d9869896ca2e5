"""The matrix products of a training step alone, in PyTorch; prints a line of JSON for each.

    python3 bench/pytorch/products.py NAME[:fp8][:tables]...

NAME: as for train.py. All products of a step, forward, data and weight gradients, each layer with weights and
gradients of its own, as cuBLASLt does them in bf16 (fp8: e4m3 with one scale a tensor, torch._scaled_mm), captured in a
CUDA graph that is replayed for some seconds, so that the GPU's clock is the one it sustains: the floor of a step's tensor
cores. tables: without keys and values of the context, which projected tables save. Reported with it: SM clock and
power, medians while the graph runs, and the bandwidth of an element-wise kernel (TB/s, bytes read plus bytes written).
"""
import argparse
import json
import subprocess
import threading
import time

import torch

from model import CONFIGS

SECONDS = 4


def layer_shapes(c, tables):
    """(rows, inputs, outputs) of every linear layer, in the order of forward."""
    rows, d = c["batch"] * c["latents"], c["d"]
    block = [(rows, d, 3 * d), (rows, d, d), (rows, d, 4 * d), (rows, 4 * d, d)]
    shapes = [(rows, d, d)]  # the latents' projection
    if not c.get("plain"):
        context = [] if tables else [(c["batch"] * c["ctx"], d, 2 * d)]
        shapes += [(rows, d, d)] + context + block[1:]
    return shapes + block * c["layers"] + [(rows, d, (c["vocab"] + 15) // 16 * 16)]


class Layer:
    """One layer's operands; inputs and gradients, which a step would overwrite, are shared by equal shapes."""

    def __init__(self, shape, shared, fp8):
        self.rows, self.inputs, self.outputs = shape
        self.fp8 = fp8
        self.weight = self.random(self.outputs, self.inputs)
        self.weight_columns = self.random(self.inputs, self.outputs) if fp8 else self.weight.t()
        self.d_weight = torch.empty(self.outputs, self.inputs, device="cuda", dtype=torch.bfloat16)
        self.x, self.dy, self.y, self.dx, self.x_columns, self.dy_columns = shared.setdefault(shape, [
            self.random(self.rows, self.inputs), self.random(self.rows, self.outputs),
            torch.empty(self.rows, self.outputs, device="cuda", dtype=torch.bfloat16),
            torch.empty(self.rows, self.inputs, device="cuda", dtype=torch.bfloat16),
            self.random(self.inputs, self.rows) if fp8 else None,
            self.random(self.outputs, self.rows) if fp8 else None])

    def random(self, *shape):
        x = torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
        return x.to(torch.float8_e4m3fn) if self.fp8 else x

    def forward(self):
        self.multiply(self.x, self.weight, self.y)

    def backward(self):
        if not self.fp8:
            torch.mm(self.dy, self.weight, out=self.dx)
            torch.mm(self.dy.t(), self.x, out=self.d_weight)
            return
        self.multiply(self.dy, self.weight_columns, self.dx)
        self.multiply(self.dy_columns, self.x_columns, self.d_weight)

    def multiply(self, a, b, out):
        """out = A [m, k] times the transpose of B [n, k]."""
        if not self.fp8:
            torch.mm(a, b.t(), out=out)
            return
        torch._scaled_mm(a, b.t(), scale_a=ONE, scale_b=ONE, out_dtype=torch.bfloat16, use_fast_accum=True, out=out)


class CardReadings:
    """Clock and power, sampled while the block runs."""

    def __enter__(self):
        self.samples, self.done = [], threading.Event()
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()

    def sample(self):
        while not self.done.wait(0.3):
            try:
                line = subprocess.run(
                    ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "-i", "0"],
                    capture_output=True, text=True, check=True).stdout.splitlines()[0]
                self.samples.append(tuple(float(x) for x in line.split(",")))
            except (OSError, subprocess.CalledProcessError, ValueError, IndexError):
                return

    def medians(self):
        late = self.samples[len(self.samples) // 3:]  # after the clock has settled
        if not late:
            return {}
        clock, power = (sorted(column)[len(late) // 2] for column in zip(*late))
        return dict(sm_mhz=round(clock), watts=round(power))


def sustained_ms(run):
    """The median time of `run`, captured, over the last half of SECONDS."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    times, begin = [], time.time()
    with CardReadings() as card:
        while time.time() - begin < SECONDS:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            graph.replay()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    late = sorted(times[len(times) // 2:])
    return late[len(late) // 2], min(times), card.medians()


def products(name, fp8, tables):
    shared, shapes = {}, layer_shapes(CONFIGS[name], tables)
    layers = [Layer(shape, shared, fp8) for shape in shapes[:-1]] + [Layer(shapes[-1], shared, False)]  # logits: bf16

    def step():
        for layer in layers:
            layer.forward()
        for layer in reversed(layers):
            layer.backward()

    ms, fastest, card = sustained_ms(step)
    flops = sum(6 * layer.rows * layer.inputs * layer.outputs for layer in layers)
    print(json.dumps(dict(bench="products", config=name, type="fp8" if fp8 else "bf16", tables=tables, step_ms=round(ms, 2),
                          fastest_ms=round(fastest, 2), tflops=round(flops / ms / 1e9, 1), **card)), flush=True)


def bandwidth():
    x = torch.empty(2**30, device="cuda", dtype=torch.float32)
    y = torch.empty_like(x)
    ms, _, card = sustained_ms(lambda: torch.neg(x, out=y))
    print(json.dumps(dict(bench="bandwidth", tb_s=round(2 * x.numel() * 4 / ms / 1e9, 2), **card)), flush=True)


def main():
    if not torch.cuda.is_available():
        raise SystemExit("products.py needs an NVIDIA GPU")
    parser = argparse.ArgumentParser(description="Times the matrix products of training steps alone.")
    parser.add_argument("what", nargs="+", help="NAME[:fp8][:tables]")
    for what in parser.parse_args().what:
        name, *options = what.split(":")
        products(name, "fp8" in options, "tables" in options)
        torch.cuda.empty_cache()
    bandwidth()


if __name__ == "__main__":
    ONE = torch.ones((), device="cuda")
    main()
