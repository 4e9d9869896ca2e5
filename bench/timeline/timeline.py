#!/usr/bin/env python3
"""Where the time of a training step goes: timeline.py FILE [KERNELS [STEPS]]

FILE is what kernel_timeline wrote. Of the last STEPS (default 5) steps, means: the step, the time in which a
kernel runs, the idle time between kernels by the length of the gap, the longest gaps with the kernels around
them, and the KERNELS (default 30) with the largest sums. A step begins with a kernel that runs once a step.
With several ranks also what they exchange, and how much of it no kernel of the step hides; such transfers do
not count as running.
"""

import collections
import re
import subprocess
import sys


def short(name):
    """The kernel's name without namespaces, and up to 60 letters of its template arguments."""
    name = re.sub(r"^void ", "", name)
    name = re.sub(r"perceiver::kernels::cuda::|\(anonymous namespace\)::|hopper::", "", name)
    return re.sub(r"\(.*", "", name)[:84]


def read(path):
    kernels = []
    with open(path) as lines:
        for line in lines:
            start, end, _, name = line.rstrip("\n").split("\t", 3)
            kernels.append((int(start), int(end), name))
    return kernels


def steps_of(kernels, count):
    """The kernels of the last `count` whole steps, and the first one of the next."""
    starts = [start for start, _, name in kernels if "step_control" in name]
    if len(starts) < count + 1:
        sys.exit(f"{len(starts)} steps, too few: {count + 1} are needed (kernel step_control, once a step)")
    first, last = starts[-count - 1], starts[-1]
    return [k for k in kernels if first <= k[0] <= last]


def is_transfer(name):
    return name == "copy of device memory" or "ncclDevKernel" in name


def union(intervals):
    """Sorted and disjoint."""
    merged = []
    for start, end in sorted(intervals):
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([start, end])
    return merged


def print_transfers(kernels, count):
    """How long ranks exchange something, and for how much of that nothing else runs."""
    moving = union((start, end) for start, end, name in kernels if is_transfer(name))
    if not moving:
        return
    both = union((start, end) for start, end, _ in kernels)
    running = union((start, end) for start, end, name in kernels if not is_transfer(name))
    length = lambda intervals: sum(end - start for start, end in intervals) / count / 1e3
    print(f"between ranks {length(moving):.1f} us, {length(both) - length(running):.1f} us of it beside no kernel")


def demangled(names):
    try:
        text = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True).stdout
        return dict(zip(names, text.split("\n")))
    except (OSError, subprocess.CalledProcessError):
        return {name: name for name in names}


def main():
    if len(sys.argv) not in (2, 3, 4):
        sys.exit(__doc__)
    most = int(sys.argv[2]) if len(sys.argv) > 2 else 30
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    everything = steps_of(read(sys.argv[1]), count)
    kernels = [k for k in everything if not is_transfer(k[2])]
    end = kernels[-1][0]
    names = demangled(sorted({name for _, _, name in everything}))
    sums, launches = collections.Counter(), collections.Counter()
    gaps, busy, busy_until, before = [], 0, kernels[0][0], ""
    for start, stop, name in kernels:
        if start > busy_until:
            gaps.append((start - busy_until, before, name))
        if start == end:
            break
        busy += max(0, stop - max(start, busy_until))
        if stop > busy_until:
            busy_until, before = stop, name
    for start, stop, name in everything[:-1]:
        sums[name] += stop - start
        launches[name] += 1
    step = (end - kernels[0][0]) / count / 1e3
    print(f"step {step:.1f} us, kernels {sum(launches.values()) / count:.0f}, running {busy / count / 1e3:.1f} us, "
          f"sum of kernels {sum(sums.values()) / count / 1e3:.1f} us")
    print_transfers(everything[:-1], count)
    for low, high in ((0, 500), (500, 1000), (1000, 1500), (1500, 2000), (2000, 5000), (5000, 10**12)):
        some = [gap for gap, _, _ in gaps if low < gap <= high]
        limit = f"{low / 1e3:g} to {high / 1e3:g} us" if high < 10**12 else f"more than {low / 1e3:g} us"
        print(f"gaps of {limit}: {len(some) / count:.1f}, {sum(some) / count / 1e3:.1f} us")
    around = collections.defaultdict(list)
    for gap, first, second in gaps:
        around[(short(names[first]), short(names[second]))].append(gap)
    print("idle between, us a step:")
    for (first, second), some in sorted(around.items(), key=lambda x: -sum(x[1]))[:12]:
        print(f"  {sum(some) / count / 1e3:8.1f}  {len(some) / count:6.1f} of {sum(some) / len(some) / 1e3:5.2f}  "
              f"{first[:50]} -> {second[:50]}")
    print("kernels, us a step, launches, us each:")
    for name, total in sums.most_common(most):
        print(f"  {total / count / 1e3:9.1f} {launches[name] / count:7.1f} {total / launches[name] / 1e3:8.1f}  "
              f"{short(names[name])}")


if __name__ == "__main__":
    main()
