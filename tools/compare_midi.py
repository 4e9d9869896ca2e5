#!/usr/bin/env python3
"""Compares how this library, mido and symusic read MIDI files.

    pip install mido symusic
    ninja -C build midi_events
    tools/compare_midi.py build/tests/midi_events FILE_OR_FOLDER...

Prints a line per file that is refused, repaired or read differently (--all: each file) and a summary; exits with 1 if
a file that mido or symusic reads is refused or has other notes. What is compared, all of it exactly:

mido      of each track up to its end: ticks, channels, keys and velocities of note-ons and note-offs, controllers,
          and tempos
symusic   onsets and durations in ticks, pitches, velocities, and whether a note is percussion; a note ends with the
          first note-off of its track, channel and key, and notes that never end do not count
played    onsets and offsets in microseconds, pitches and velocities of the performance (docs/music.md), played a
          second time here from mido's events; not for formats that mido does not play (2, SMPTE time)
"""
import argparse
import collections
import fractions
import json
import pathlib
import subprocess
import sys
import tempfile

import mido
import symusic

PERCUSSION, PEDAL = 9, 64
ENDINGS = {'.mid', '.midi', '.smf', '.kar', '.rmi'}


def mido_events(path):
    """Events of each track as midi_events prints them; the ticks per quarter note; the format."""
    file = mido.MidiFile(path)
    tracks = []
    for track in file.tracks:
        tick, events = 0, []
        for m in track:
            tick += m.time
            if m.type == 'note_on' and m.velocity > 0:
                events.append([tick, 'on', m.channel, m.note, m.velocity])
            elif m.type in ('note_on', 'note_off'):
                events.append([tick, 'off', m.channel, m.note, m.velocity])
            elif m.type == 'control_change':
                events.append([tick, 'control', m.channel, m.control, m.value])
            elif m.type == 'set_tempo':
                events.append([tick, 'tempo', m.tempo])
            elif m.type == 'end_of_track':
                break
        tracks.append({'end': tick, 'events': events})
    return tracks, file.ticks_per_beat, file.type


def without_tempos(tracks):
    return [[e for e in track['events'] if e[1] != 'tempo'] for track in tracks]


def notes_in_ticks(tracks):
    notes = collections.Counter()
    for track in tracks:
        sounding = collections.defaultdict(collections.deque)
        for tick, kind, *rest in track['events']:
            if kind == 'on':
                sounding[tuple(rest[:2])].append((tick, rest[2]))
            elif kind == 'off' and sounding[tuple(rest[:2])]:
                onset, velocity = sounding[tuple(rest[:2])].popleft()
                notes[onset, tick - onset, rest[1], velocity, rest[0] == PERCUSSION] += 1
    return notes


def symusic_notes(path):
    with tempfile.NamedTemporaryFile(suffix='.mid') as copy:  # it knows no other ending
        copy.write(pathlib.Path(path).read_bytes())
        copy.flush()
        score = symusic.Score(copy.name)
    return collections.Counter((n.time, n.duration, n.pitch, n.velocity, track.is_drum)
                               for track in score.tracks for n in track.notes)


class Sounding:
    """A note without its end. Compares by identity: two notes may be alike."""

    def __init__(self, onset, track, channel, key, velocity):
        self.onset, self.track, self.channel, self.key, self.velocity = onset, track, channel, key, velocity


def play(tracks, ticks_per_quarter):
    """The performance as docs/music.md defines it, by a state per note instead of queues per key."""
    merged = sorted(((e[0], number, e[1:]) for number, track in enumerate(tracks) for e in track['events']),
                    key=lambda item: item[:2])
    notes, pressed, held, pedal = [], [], [], set()
    time, last, tempo = fractions.Fraction(0), 0, 500000

    def clock(tick):
        nonlocal time, last
        time += fractions.Fraction((tick - last) * tempo, ticks_per_quarter)
        last = tick
        return int(time + fractions.Fraction(1, 2))

    def end(these, now):
        notes.extend([n.onset, now, n.key, n.velocity] for n in these)

    def let_go(these, now):
        nonlocal pressed
        pressed = [n for n in pressed if n not in these]
        held.extend(n for n in these if n.channel in pedal)
        end([n for n in these if n.channel not in pedal], now)

    def drop(now, condition):
        nonlocal held
        end([n for n in held if condition(n)], now)
        held = [n for n in held if not condition(n)]

    for tick, number, (kind, *rest) in merged:
        now = clock(tick)
        if kind == 'tempo':
            tempo = rest[0]
            continue
        channel, key, value = rest
        if kind == 'on' and channel != PERCUSSION:
            drop(now, lambda n: (n.channel, n.key) == (channel, key))
            pressed.append(Sounding(now, number, channel, key, value))
        elif kind == 'off' and channel != PERCUSSION:
            let_go([n for n in pressed if (n.track, n.channel, n.key) == (number, channel, key)][:1], now)
        elif kind == 'control':
            if key == PEDAL and value >= 64:
                pedal.add(channel)
            elif (key == PEDAL or key == 121) and channel in pedal:
                pedal.discard(channel)
                drop(now, lambda n: n.channel == channel)
            if key in (120, 123):
                let_go([n for n in pressed if n.channel == channel], now)
            if key == 120:
                drop(now, lambda n: n.channel == channel)
    now = clock(max((track['end'] for track in tracks), default=0))
    end(held + pressed, now)
    return sorted(separate(notes))


def separate(notes):
    """One note of a pitch at a time."""
    kept = []
    for onset, offset, pitch, velocity in sorted(notes, key=lambda n: (n[2], n[0], n[1])):
        before = kept[-1] if kept and kept[-1][2] == pitch else None
        if before and before[0] == onset and before[1] > onset:
            before[1], before[3] = max(before[1], offset), max(before[3], velocity)
            continue
        if before and before[1] > onset:
            before[1] = onset
        kept.append([onset, offset, pitch, velocity])
    return kept


def attempt(function, *arguments):
    try:
        return function(*arguments), None
    except Exception as error:  # both throw anything at all for a bad file
        return None, f'{type(error).__name__} {error}'.strip().splitlines()[0][:60]


def same(equal):
    return 'same' if equal else 'DIFFERENT'


def compare_mido(ours, path):
    """A verdict for the events and one for the performance."""
    read, error = attempt(mido_events, path)
    if error:
        return 'refuses', '-'
    tracks, quarter, kind = read
    if 'error' in ours:
        return f"reads {sum(e[1] == 'on' for t in tracks for e in t['events'])}", '-'
    equal = [t['events'] for t in ours['tracks']] == [t['events'] for t in tracks]
    verdict = same(equal)
    if not equal and without_tempos(ours['tracks']) == without_tempos(tracks):
        verdict = 'other tempos'
    if kind == 2 or quarter <= 0 or not equal:
        return verdict, '-'
    return verdict, same(play(tracks, quarter) == sorted(ours['notes']))


def compare_symusic(ours, path):
    notes, error = attempt(symusic_notes, path)
    if error:
        return 'refuses'
    if 'error' in ours:
        return f'reads {sum(notes.values())}'
    return same(notes_in_ticks(ours['tracks']) == notes)


def listed(names):
    for name in map(pathlib.Path, names):
        if name.is_dir():
            yield from sorted(p for p in name.rglob('*') if p.suffix.lower() in ENDINGS)
        else:
            yield name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('program', help='midi_events, built from this repository')
    parser.add_argument('files', nargs='+')
    parser.add_argument('--all', action='store_true', help='print all files')
    options = parser.parse_args()
    counts, failed = collections.Counter(), False
    for path in map(str, listed(options.files)):
        ours = json.loads(subprocess.run([options.program, path], check=True, capture_output=True).stdout)
        events, played = compare_mido(ours, path)
        notes = compare_symusic(ours, path)
        if 'error' in ours:
            state, count, remark = 'refused', '-', ours['error'].removeprefix(path + ': ')
        else:
            state = 'repaired' if ours['repairs'] else 'read'
            count = sum(e[1] == 'on' for t in ours['tracks'] for e in t['events'])
            remark = '; '.join(ours['repairs'])
        verdicts = {'us': state, 'mido': events, 'symusic': notes, 'played': played}
        counts.update(verdicts.items())
        counts['notes', 'compared'] += 0 if 'error' in ours else count
        unlike = any(v == 'DIFFERENT' or v.startswith('reads') for v in (events, notes, played))
        failed |= unlike
        if options.all or unlike or state != 'read':
            print(f'{pathlib.Path(path).name:<48} {state:<9}{count!s:>6}  mido {events:<13}symusic {notes:<10}'
                  f'played {played:<10}{remark}')
    print(', '.join(f'{who} {what}: {number}' for (who, what), number in sorted(counts.items())))
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
