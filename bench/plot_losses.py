#!/usr/bin/env python3
"""Draws the training losses of runs as SVG.   bench/plot_losses.py [--minutes] NAME=RUN_FOLDER... > losses.svg"""
import json
import os
import sys

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 420, 60, 150, 20, 45
STYLES = [("#1f77b4", "7", ""), ("#ff7f0e", "4", ""), ("#111", "1.2", ' stroke-dasharray="6 5"'), ("#2ca02c", "1.2", ' stroke-dasharray="2 4"')]


def losses(folder, minutes):
    with open(os.path.join(folder, "metrics.jsonl")) as lines:
        entries = [json.loads(line) for line in lines]
    return [(e["elapsed"] / 60 if minutes else e["step"], e["loss"]) for e in entries if "gradient_norm" in e]


def main():
    minutes = sys.argv[1] == "--minutes"
    arguments = sys.argv[2 if minutes else 1:]
    runs = [(name, losses(folder, minutes)) for name, folder in (argument.split("=", 1) for argument in arguments)]
    steps = max(step for _, points in runs for step, _ in points)
    most = max(loss for _, points in runs for _, loss in points)
    least = min(loss for _, points in runs for _, loss in points)
    x = lambda step: LEFT + (WIDTH - LEFT - RIGHT) * step / steps
    y = lambda loss: TOP + (HEIGHT - TOP - BOTTOM) * (most - loss) / (most - least)
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">')
    print(f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>')
    for i in range(6):
        loss, step = least + (most - least) * i / 5, steps * i / 5
        print(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(loss):.1f}" y2="{y(loss):.1f}" stroke="#ddd"/>')
        print(f'<text x="{LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:.2f}</text>')
        print(f'<text x="{x(step):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{step:.{1 if minutes else 0}f}</text>')
    print(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{"minutes" if minutes else "step"}</text>')
    print(f'<text x="14" y="{HEIGHT / 2}" transform="rotate(-90 14 {HEIGHT / 2})" text-anchor="middle">loss, nats per target</text>')
    for i, (name, points) in enumerate(runs):
        colour, width, dashes = STYLES[i % len(STYLES)]
        path = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
        print(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>')
        print(f'<line x1="{WIDTH - RIGHT + 10}" x2="{WIDTH - RIGHT + 40}" y1="{TOP + 20 + 22 * i}" y2="{TOP + 20 + 22 * i}" stroke="{colour}" stroke-width="{width}"{dashes}/>')
        print(f'<text x="{WIDTH - RIGHT + 46}" y="{TOP + 24 + 22 * i}">{name}</text>')
    print("</svg>")


if __name__ == "__main__":
    main()
