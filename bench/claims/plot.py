"""Small line plots as SVG."""
import math
import os

COLORS = ["#1f6fb4", "#c4562a", "#2a8c3c", "#8a4fa3", "#a3842a", "#5a6672", "#c43a7a", "#2aa39a", "#111111"]
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, RIGHT = 420, 320, 62, 46, 44, 16


def text(x, y, anchor, words, color="black"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{words}</text>'


def rule(x1, y1, x2, y2):
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def short(number):
    if number >= 1024 and number % 1024 == 0:
        return f"{number // 1024:g}k"
    return f"{number:g}"


def steps_of(low, high):
    """Round numbers from `low` to `high`, about five of them."""
    rough = (high - low) / 5 or 1
    unit = 10 ** math.floor(math.log10(rough))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough)
    return [round(i * step, 10) for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


class Panel:
    """`lines` maps a name to points (x, y); `logarithmic` is about x."""

    def __init__(self, title, x_axis, lines, logarithmic=False):
        self.title, self.x_axis, self.logarithmic = title, x_axis, logarithmic
        self.lines = {name: [(x, y) for x, y in points if y is not None] for name, points in lines.items()}
        points = [point for line in self.lines.values() for point in line]
        self.xs = sorted({x for x, _ in points})
        self.x_marks = self.xs if logarithmic else steps_of(0, self.xs[-1])
        self.y_marks = steps_of(min(y for _, y in points), max(y for _, y in points))

    def x_of(self, x):
        scale = math.log if self.logarithmic else float
        low, high = scale(self.x_marks[0]), scale(self.x_marks[-1])
        return LEFT + (WIDTH - LEFT - RIGHT) * ((scale(x) - low) / (high - low) if high > low else 0.5)

    def y_of(self, y):
        low, high = self.y_marks[0], self.y_marks[-1]
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * ((y - low) / (high - low) if high > low else 0.5)

    def svg(self, color_of):
        bottom = HEIGHT - BOTTOM
        yield text(LEFT, TOP - 26, "start", self.title)
        yield text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, "middle", self.x_axis)
        last = -math.inf
        for x in self.x_marks:
            yield rule(self.x_of(x), TOP, self.x_of(x), bottom)
            if self.x_of(x) - last > 26:
                yield text(self.x_of(x), bottom + 16, "middle", short(x))
                last = self.x_of(x)
        for y in self.y_marks:
            yield rule(LEFT, self.y_of(y), WIDTH - RIGHT, self.y_of(y))
            yield text(LEFT - 6, self.y_of(y) + 4, "end", f"{y:g}")
        for name, line in self.lines.items():
            places = [(self.x_of(x), self.y_of(y)) for x, y in line]
            yield f'<polyline points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}" fill="none" stroke="{color_of[name]}" stroke-width="2"/>'
            for x, y in places:
                yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{color_of[name]}"/>'


def draw(path, panels):
    """Panels side by side; a legend of all their lines below. Panels without a point are left out; without any, nothing is drawn."""
    panels = [Panel(*panel) for panel in panels if any(y is not None for line in panel[2].values() for _, y in line)]
    if not panels:
        return
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    color_of = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    width = WIDTH * len(panels)
    rows = legend(names, width)
    height = HEIGHT + 6 + 18 * len(rows)
    with open(path + ".new", "w") as file:
        print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">', file=file)
        print(f'<rect width="{width}" height="{height}" fill="white"/>', file=file)
        for i, panel in enumerate(panels):
            print(f'<g transform="translate({i * WIDTH},0)">', *panel.svg(color_of), "</g>", sep="\n", file=file)
        for i, row in enumerate(rows):
            for x, name in row:
                print(text(x, HEIGHT + 18 * (i + 1) - 2, "start", f"&#9679; {name}", color_of[name]), file=file)
        print("</svg>", file=file)
    os.replace(path + ".new", path)


def legend(names, width):
    """Rows of (x, name)."""
    rows, x = [[]], LEFT
    for name in names:
        needed = 24 + 6.6 * len(name)
        if rows[-1] and x + needed > width:
            rows.append([])
            x = LEFT
        rows[-1].append((x, name))
        x += needed
    return rows
