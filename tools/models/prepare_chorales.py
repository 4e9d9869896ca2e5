#!/usr/bin/env python3
"""MIDI files for the model `chorale`: Bach's chorales in four parts from the Python package music21.

    python3 -m venv venv && venv/bin/pip install music21
    venv/bin/python3 tools/models/prepare_chorales.py data/chorale

Writes data/chorale/train and data/chorale/validation. All settings of a melody are in the same of the two: the melody counts,
not its key. Left out: files that state a source or rights of their own (three from another collection, one from a web
page), and works in more or fewer than four parts. All notes get the same velocity, and rhythms stay exact.
"""
import hashlib
import pathlib
import sys
import zipfile

from music21 import converter, corpus, tempo

QUARTERS_A_MINUTE = 80


def of_free_use(path):
    """Only compressed MusicXML that names no source and no rights."""
    if path.suffix != ".mxl":
        return False
    archive = zipfile.ZipFile(path)
    name = next(name for name in archive.namelist() if not name.startswith("META"))
    text = archive.read(name)
    return b"<rights" not in text and b"<source" not in text


def melody(score):
    """The first intervals of the upper part, the same in every key."""
    pitches = [note.pitch.midi for note in score.parts[0].flatten().notes if note.isNote][:13]
    return tuple(second - first for first, second in zip(pitches, pitches[1:]))


def prepared(score):
    score = score.expandRepeats() if score.recurse().getElementsByClass("Repeat") else score
    for mark in list(score.recurse().getElementsByClass("TempoIndication")):
        mark.activeSite.remove(mark)
    score.parts[0].insert(0, tempo.MetronomeMark(number=QUARTERS_A_MINUTE))
    for note in score.recurse().notes:
        note.volume.velocity = 72
    return score


def main():
    target = pathlib.Path(sys.argv[1])
    for split in ("train", "validation"):
        (target / split).mkdir(parents=True, exist_ok=True)
    count = {"train": 0, "validation": 0}
    for path in sorted(map(pathlib.Path, corpus.getComposer("bach"))):
        if not of_free_use(path):
            continue
        try:
            score = converter.parse(path)
            if len(score.parts) != 4:
                continue
            held_out = hashlib.md5(repr(melody(score)).encode()).digest()[0] < 18  # of 256: one in fourteen
            split = "validation" if held_out else "train"
            prepared(score).write("midi", target / split / f"{path.stem}.mid")
            count[split] += 1
        except Exception as error:  # scores that music21 cannot read or expand
            print(f"{path.name}: {error}", file=sys.stderr)
    print(count)


main()
