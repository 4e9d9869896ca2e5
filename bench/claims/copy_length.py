#!/usr/bin/env python3
"""Claim 6: the copy task over length. Evaluates a run of the copy task on fresh sequences of each length.

    bench/claims/copy_length.py BUILD cuda|cpu --run RUN [--lengths 32,…] [--documents N] [--set KEY=VALUE]

For a run of configs/copy.yaml (bench/copy_task.sh) add --set "data.options={positions: centered}", so that all sequences have the length.
Every target of a copy sequence (the mirror image and the end) can be predicted: an accuracy of 1 is possible. Lengths that the run's context
cannot hold are lines of the table. Writes copy_length.tsv and copy_length_DEVICE.svg."""
import os

import common
import plot

LENGTHS = [32 << i for i in range(13)]  # to 131,072
TOKENS = 1 << 20  # about so many for each length


def row(session, run, length, documents):
    count = documents or max(2, min(256, TOKENS // length))
    words = ["--quiet", "--device", session.device, "eval", run, "--json", "--set", f"data.copy_length={length}", "--max-documents", str(count), "--batch",
             str(max(1, min(32, 65536 // length))), *(word for setting in session.options.set for word in ("--set", setting))]
    try:
        with session.lock():
            result = common.json.loads(session.call(words))
        return [length, count, result["accuracy"], result["bits_per_byte"], "evaluated"]
    except common.Failed as error:
        return [length, count, "", "", str(error)]


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--run", required=True, help="run folder, checkpoint or model file of the copy task")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)))
    parser.add_argument("--documents", type=int, default=0, help="sequences of each length (default: 2 to 256, by length)")
    arguments = parser.parse_args()
    session = common.Session(arguments)
    rows = [row(session, os.path.abspath(arguments.run), int(length), arguments.documents) for length in arguments.lengths.split(",")]
    session.table("copy_length", ["length", "sequences", "accuracy", "bits_per_byte", "state"], rows)
    plot.draw(f"{arguments.out}/copy_length_{arguments.device}.svg",
              [("accuracy of the copy", "length", {"accuracy": [(each[0], each[2]) for each in rows if each[2] != ""]}, True)])


if __name__ == "__main__":
    main()
