#!/usr/bin/env python3
"""Steps per second over the context and the depth, for Perceiver AR, Transformer-XL and Transformer of the same width, heads and
batch: the figure on which the published claim rests (Hawthorne et al. 2022, figure 3).

    bench/architectures.py BUILD cuda|cpu [--out docs/benchmarks] [--minutes M] [--set KEY=VALUE ...]

Writes OUT/architectures.tsv (rows of other devices stay) and OUT/architectures_DEVICE.svg. For each depth the context grows, twofold on
a CPU and fourfold on a GPU, until a step takes longer than LIMIT seconds or memory ends; both are rows of the table, not failures.
First come all contexts at one depth, then all depths at one context, then the rest.
Of a context of N tokens, Perceiver AR has min(N, LATENTS) latents; Transformer-XL a segment of as many tokens and a memory of the
rest, so that both predict the same number of tokens a step; the Transformer predicts all N. --minutes ends the measurement early;
what is missing is said."""
import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time

SOURCE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DEVICES = {
    "cuda": {"latents": 1024, "contexts": [512 << 2 * i for i in range(6)], "depths": [12, 60, 42, 6, 24],
             "across": 8192, "limit": 2.0, "steps": 3, "heads": 16, "model": {"input_channels": 1024}, "train": {"batch": 1}},
    "cpu": {"latents": 128, "contexts": [128 << i for i in range(8)], "depths": [6, 2, 12],
            "across": 4096, "limit": 3.0, "steps": 2, "heads": 4, "model": {"input_channels": 128}, "train": {"batch": 1}},
}
ARCHITECTURES = ["perceiver_ar", "transformer_xl", "transformer"]
ENOUGH = 0.4  # seconds of timed steps
COLORS = {"perceiver_ar": "#1f6fb4", "transformer_xl": "#c4562a", "transformer": "#2a8c3c"}
COLUMNS = ["device", "architecture", "layers", "context", "steps_per_second", "peak_mib", "state"]


def settings(kind, architecture, layers, context, more):
    """The configuration's lines for one point, as sections of YAML."""
    latents = min(context, kind["latents"])
    model = {"type": architecture, "vocabulary": 259, "context_length": context, "layers": layers, "residual_dropout": 0.0,
             "self_heads": kind["heads"], **kind["model"]}
    if architecture == "perceiver_ar":
        model.update(latents=latents, cross_heads=kind["heads"])
    elif architecture == "transformer_xl":
        model.update(context_length=latents, memory_length=context - latents, activation="relu", output_norm="false", tied_output="true")
    sections = {"model": model, "optimizer": {"type": "adamw"}, "loss": {"z_loss": 0}, "train": dict(kind["train"])}
    for setting in more:
        key, value = setting.split("=", 1)
        section, name = key.split(".", 1)
        sections.setdefault(section, {})[name] = value
    return "".join(f"{name}:\n" + "".join(f"  {key}: {value}\n" for key, value in keys.items()) for name, keys in sections.items())


def measure(program, device, kind, architecture, layers, context, more, folder, expected):
    """(steps per second, peak MiB, state) of one point; no figures where memory ended. `expected`: seconds of a step at a shorter
    context, of which enough are timed; None: unknown."""
    config = os.path.join(folder, "point.yaml")
    with open(config, "w") as file:
        file.write(f"device: {device}\n" + settings(kind, architecture, layers, context, more))
    steps = max(kind["steps"], min(100, math.ceil(ENOUGH / expected))) if expected else kind["steps"]
    while True:
        command = [program, "bench", "train", "--config", config, "--steps", str(steps), "--warmup", "2"]
        run = subprocess.run(command, capture_output=True, text=True)
        if run.returncode != 0:
            break
        result = json.loads(run.stdout)
        seconds = result["step_ms"]["median"] / 1000
        if steps > kind["steps"] or steps * seconds > ENOUGH:
            return 1 / seconds, result["peak_allocated_mib"], "measured"
        steps = max(kind["steps"] + 1, min(100, math.ceil(ENOUGH / seconds)))  # short steps: the median of many
    if "out of memory" in run.stderr or run.returncode == -9:
        return None, None, "out of memory"
    sys.exit(f"{' '.join(command)}: {run.stderr.strip()}")


def order(kind):
    """(layers, contexts), what matters most first."""
    first, *others = kind["depths"]
    yield first, kind["contexts"]
    for layers in others:
        yield layers, [kind["across"]]
    for layers in others:
        yield layers, [context for context in kind["contexts"] if context != kind["across"]]


def points(program, device, kind, more, deadline):
    with tempfile.TemporaryDirectory() as folder:
        for layers, contexts in order(kind):
            for architecture in ARCHITECTURES:
                speed = None
                for context in contexts:
                    if deadline and time.time() > deadline:
                        print(f"time is over at {architecture}, {layers} layers, context {context}", file=sys.stderr)
                        return
                    speed, mib, state = measure(program, device, kind, architecture, layers, context, more, folder, 1 / speed if speed else None)
                    row = [device, architecture, str(layers), str(context), f"{speed:.4g}" if speed else "", f"{mib:.0f}" if mib else "", state]
                    print("\t".join(row), flush=True)
                    yield row
                    if state != "measured" or 1 / speed > kind["limit"]:
                        break


def update_table(path, device, rows):
    """Replaces the device's rows."""
    others = []
    if os.path.exists(path):
        with open(path) as file:
            others = [line.rstrip("\n").split("\t") for line in file][1:]
    rows = [row for row in others if row[0] != device] + rows
    with open(path + ".new", "w") as file:
        file.writelines("\t".join(row) + "\n" for row in [COLUMNS, *rows])
    os.replace(path + ".new", path)
    return rows


class Panel:
    """One logarithmic plot: `lines` maps an architecture to points (x, steps per second, or None where memory ended)."""
    WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 400, 320, 62, 46, 44

    def __init__(self, at, title, axis, lines):
        self.at, self.title, self.axis, self.lines = at, title, axis, lines
        xs = sorted({x for line in lines.values() for x, _ in line})
        speeds = [speed for line in lines.values() for _, speed in line if speed]
        self.xs = xs
        self.low, self.high = math.floor(math.log10(min(speeds))), math.ceil(math.log10(max(speeds)))
        if self.high == self.low:
            self.high += 1

    def x_of(self, x):
        least, most = math.log(self.xs[0]), math.log(self.xs[-1])
        return self.at + self.LEFT + (self.WIDTH - self.LEFT - 20) * ((math.log(x) - least) / (most - least) if most > least else 0.5)

    def y_of(self, speed):
        return self.HEIGHT - self.BOTTOM - (self.HEIGHT - self.TOP - self.BOTTOM) * (math.log10(speed) - self.low) / (self.high - self.low)

    def svg(self):
        left, right = self.x_of(self.xs[0]), self.x_of(self.xs[-1])
        bottom = self.HEIGHT - self.BOTTOM
        yield text(self.at + self.LEFT, self.TOP - 26, "start", self.title)
        yield text((left + right) / 2, self.HEIGHT - 8, "middle", self.axis)
        for x in self.xs:
            yield rule(self.x_of(x), self.TOP, self.x_of(x), bottom)
            yield text(self.x_of(x), bottom + 16, "middle", f"{x // 1024}k" if x >= 1024 and x % 1024 == 0 else x)
        for decade in range(self.low, self.high + 1):
            yield rule(left, self.y_of(10**decade), right, self.y_of(10**decade))
            yield text(left - 6, self.y_of(10**decade) + 4, "end", f"{10.0**decade:g}")
        for name, line in self.lines.items():
            yield from self.curve(COLORS[name], line, bottom)

    def curve(self, color, line, bottom):
        places = [(self.x_of(x), self.y_of(speed)) for x, speed in line if speed]
        yield f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" fill="none" stroke="{color}" stroke-width="2"/>'
        for x, y in places:
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color}"/>'
        for x in (self.x_of(x) for x, speed in line if not speed):
            yield text(x, bottom - 4, "middle", "&#215;", color)


def text(x, y, anchor, words, color="black"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{words}</text>'


def rule(x1, y1, x2, y2):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def draw(path, device, rows):
    """Over the context at the first depth, and over the depth at the context of most points, the longest of those."""
    table = {(row[1], int(row[2]), int(row[3])): float(row[4]) if row[4] else None for row in rows if row[0] == device}
    depth = DEVICES[device]["depths"][0]
    contexts = sorted({context for _, layers, context in table if layers == depth})
    over_context = {a: [(c, table[a, depth, c]) for c in contexts if (a, depth, c) in table] for a in ARCHITECTURES}
    panels = [Panel(0, f"steps/s, {device}, {depth} layers", "context, tokens", over_context)]
    depths = sorted({layers for _, layers, _ in table})
    if len(depths) > 1:
        across = max(contexts, key=lambda c: (sum(context == c for _, _, context in table), c))
        over_depth = {a: [(d, table[a, d, across]) for d in depths if (a, d, across) in table] for a in ARCHITECTURES}
        panels.append(Panel(Panel.WIDTH, f"steps/s, {device}, context {across}", "layers", over_depth))
    width, height = Panel.WIDTH * len(panels), Panel.HEIGHT + 24
    with open(path + ".new", "w") as file:
        print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">', file=file)
        print(f'<rect width="{width}" height="{height}" fill="white"/>', file=file)
        for panel in panels:
            print("\n".join(panel.svg()), file=file)
        for i, name in enumerate(ARCHITECTURES):
            print(text(Panel.LEFT + 150 * i, height - 6, "start", f"&#9679; {name}", COLORS[name]), file=file)
        print("</svg>", file=file)
    os.replace(path + ".new", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build")
    parser.add_argument("device", choices=sorted(DEVICES))
    parser.add_argument("--out", default=os.path.join(SOURCE, "docs", "benchmarks"))
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    program = os.path.join(os.path.abspath(arguments.build), "perceiver")
    deadline = time.time() + 60 * arguments.minutes if arguments.minutes else None
    rows = list(points(program, arguments.device, DEVICES[arguments.device], arguments.set, deadline))
    os.makedirs(arguments.out, exist_ok=True)
    rows = update_table(os.path.join(arguments.out, "architectures.tsv"), arguments.device, rows)
    draw(os.path.join(arguments.out, f"architectures_{arguments.device}.svg"), arguments.device, rows)


if __name__ == "__main__":
    main()
