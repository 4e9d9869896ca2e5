#!/usr/bin/env python3
"""Spoken digits on demand, and whether they are understood.

    bench/spoken_digits.py prepare RECORDINGS FOLDER      recordings with a mark of their digit in front
    bench/spoken_digits.py prompts FOLDER                 the ten marks alone, 0.wav to 9.wav, as prompts
    bench/spoken_digits.py recognise RECORDINGS [FOLDER]  which digits the samples in FOLDER are; their names start with the digit asked for

A recording is DIGIT_SPEAKER_TAKE.wav, 8 kHz, mono. Its mark is 16 samples of one level, another level for each digit: who generates
from a mark alone asks for that digit. `prepare` also makes all recordings equally loud, cuts them to MOST samples, and adds VARIANTS of each
that is learnt from, faster or slower by up to SPEED (and higher or lower with it): the recordings alone are soon known by heart.

The recogniser is kernel ridge regression of the digit on a log-mel spectrogram that is trimmed and stretched to a fixed number of
frames. It learns from the real recordings alone, of takes 5 and later, and first says how many of takes 0 to 4, which nothing has
learnt from, it recognises. Needs numpy."""
import argparse
import os
import sys
import wave

RATE = 8000
MARK = 16  # samples
MOST = 8000  # samples, marks included
PEAK = 0.5
VARIANTS, SPEED = 2, 0.1
TEST_TAKES = 5  # takes 0 to 4
VALIDATION_TAKE = 5


def read(path):
    """Samples in -1 to 1."""
    import numpy

    with wave.open(path, "rb") as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (RATE, 1, 2):
            sys.exit(f"{path}: needs 8 kHz, one channel, 16 bits")
        return numpy.frombuffer(file.readframes(file.getnframes()), "<i2").astype(float) / 32768


def write(path, samples):
    import numpy

    with wave.open(path, "wb") as file:
        file.setparams((1, 2, RATE, len(samples), "NONE", ""))
        file.writeframes(numpy.asarray(samples, "<i2").tobytes())


def recordings(folder):
    """[(path, digit, take)], sorted."""
    names = sorted(name for name in os.listdir(folder) if name.endswith(".wav"))
    return [(os.path.join(folder, name), int(name[0]), int(name[:-4].split("_")[-1])) for name in names]


def mark(digit):
    """Levels that are far apart in mu-law too: powers of two, of both signs."""
    level = 16384 >> (digit // 2 * 2)
    return [level if digit % 2 == 0 else -level] * MARK


def resample(numpy, samples, speed):
    """Plays the samples `speed` times as fast: their spectrum, cut off or padded with zeros."""
    length = round(len(samples) / speed)
    return numpy.fft.irfft(numpy.fft.rfft(samples), length) * (length / len(samples))


def as_marked(numpy, digit, samples):
    """16-bit samples, the mark in front, the loudest at PEAK."""
    loudest = max(abs(samples).max(), 1e-6)
    return numpy.concatenate([mark(digit), numpy.rint(32768 * PEAK / loudest * samples)])[:MOST]


def prepare(source, target):
    import numpy

    os.makedirs(target, exist_ok=True)
    random = numpy.random.default_rng(0)
    for path, digit, take in recordings(source):
        samples = read(path)
        name = os.path.basename(path)[:-4]
        write(os.path.join(target, name + ".wav"), as_marked(numpy, digit, samples))
        for i in range(VARIANTS if take > VALIDATION_TAKE else 0):
            speed = numpy.exp(random.uniform(-SPEED, SPEED))
            write(os.path.join(target, f"{name}-{i}.wav"), as_marked(numpy, digit, resample(numpy, samples, speed)))


def prompts(target):
    os.makedirs(target, exist_ok=True)
    for digit in range(10):
        write(os.path.join(target, f"{digit}.wav"), mark(digit))


# The recogniser

FRAME, HOP, BANDS, FRAMES = 256, 80, 26, 32


def mel_filters(numpy):
    """[BANDS, FRAME / 2 + 1], triangles between 80 Hz and 4 kHz (O'Shaughnessy's mel scale)."""
    mel = numpy.linspace(2595 * numpy.log10(1 + 80 / 700), 2595 * numpy.log10(1 + RATE / 2 / 700), BANDS + 2)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = numpy.arange(FRAME // 2 + 1) * RATE / FRAME
    rising = (frequencies - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - frequencies) / (edges[2:] - edges[1:-1])[:, None]
    return numpy.clip(numpy.minimum(rising, falling), 0, None)


def features(numpy, samples, filters):
    """[FRAMES * BANDS]: log-mel energies of the part that is not silent, at equal distances in time, of mean 0 and variance 1."""
    if len(samples) < FRAME:
        samples = numpy.pad(samples, (0, FRAME - len(samples)))
    frames = numpy.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP] * numpy.hanning(FRAME)
    energies = numpy.abs(numpy.fft.rfft(frames)) ** 2 @ filters.T
    loud = numpy.flatnonzero(energies.sum(1) > 0.003 * energies.sum(1).max())
    if not len(loud):  # silence
        return numpy.zeros(FRAMES * BANDS)
    energies = numpy.log(energies[loud[0]:loud[-1] + 1] + 1e-6)
    at = numpy.linspace(0, len(energies) - 1, FRAMES)
    low, part = at.astype(int), (at % 1)[:, None]
    stretched = energies[low] * (1 - part) + energies[numpy.minimum(low + 1, len(energies) - 1)] * part
    return ((stretched - stretched.mean()) / (stretched.std() + 1e-6)).ravel()


class Recogniser:
    """Kernel ridge regression with a Gaussian kernel, one column a digit."""

    def __init__(self, numpy, samples, digits):
        self.numpy, self.filters = numpy, mel_filters(numpy)
        self.known = self.of(samples)
        self.width = 0.25 * self.known.shape[1]  # a quarter of the mean square distance of unrelated features, about
        kernel = self.kernel(self.known)
        targets = numpy.eye(10)[digits]
        self.weights = numpy.linalg.solve(kernel + 0.01 * numpy.eye(len(kernel)), targets)

    def of(self, samples):
        return self.numpy.array([features(self.numpy, each, self.filters) for each in samples])

    def kernel(self, rows):
        squares = (rows**2).sum(1)[:, None] + (self.known**2).sum(1) - 2 * rows @ self.known.T
        return self.numpy.exp(-squares / (2 * self.width))

    def __call__(self, samples):
        return self.numpy.argmax(self.kernel(self.of(samples)) @ self.weights, 1)


def recognise(source, target):
    import numpy

    real = recordings(source)
    learn = [each for each in real if each[2] >= TEST_TAKES]
    unseen = [each for each in real if each[2] < TEST_TAKES]
    recogniser = Recogniser(numpy, [read(path) for path, _, _ in learn], [digit for _, digit, _ in learn])
    right = recogniser([read(path) for path, _, _ in unseen]) == numpy.array([digit for _, digit, _ in unseen])
    print(f"real recordings, not learnt from: {right.mean():.1%} of {len(right)} recognised")
    if target is None:
        return
    names = sorted(name for name in os.listdir(target) if name.endswith(".wav"))
    if not names:
        sys.exit(f"{target}: no WAV files")
    wanted = numpy.array([int(name[0]) for name in names])
    heard = recogniser([read(os.path.join(target, name))[MARK:] for name in names])
    print("| asked for | " + " | ".join(f"heard {digit}" for digit in range(10)) + " |\n|" + "---|" * 11)
    for digit in range(10):
        print(f"| {digit} | " + " | ".join(str(((wanted == digit) & (heard == each)).sum()) for each in range(10)) + " |")
    print(f"samples: {(wanted == heard).mean():.1%} of {len(names)} recognised as the digit asked for")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["prepare", "prompts", "recognise"])
    parser.add_argument("folders", nargs="+")
    arguments = parser.parse_args()
    most = {"prepare": (2, 2), "prompts": (1, 1), "recognise": (1, 2)}[arguments.what]
    if not most[0] <= len(arguments.folders) <= most[1]:
        parser.error("see --help for the folders that it needs")
    if arguments.what == "prepare":
        prepare(*arguments.folders)
    elif arguments.what == "prompts":
        prompts(*arguments.folders)
    else:
        recognise(arguments.folders[0], arguments.folders[1] if len(arguments.folders) > 1 else None)


if __name__ == "__main__":
    main()
