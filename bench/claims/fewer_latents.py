#!/usr/bin/env python3
"""Claim 3: compute chosen at evaluation. One trained Perceiver AR, evaluated with more and fewer latents than it was trained with.

    bench/claims/fewer_latents.py BUILD cuda|cpu [--latents 64,…] [--stride S] [--data FOLDER]

The model is one of larger_context.py, trained if it is not there. Every evaluation scores the same targets in windows that end at the same
places, S targets each: more latents make the same predictions dearer. Writes fewer_latents.tsv and fewer_latents_DEVICE.svg: bits per
byte over the time a token."""
import os

import common
import larger_context
import plot

CONTEXT = {"cuda": 8192, "cpu": 2048}
LATENTS = {"cuda": "64,128,256,512,1024,2048", "cpu": "32,64,128,256,512"}
STRIDE = {"cuda": 64, "cpu": 32}
CPU_BYTES = 16384  # of one book, scored on a CPU


def scored(session):
    """Options of the evaluation: which text."""
    if session.device == "cuda":
        return ["--max-documents", "1"]
    excerpt = os.path.join(session.runs, "excerpt.txt")
    with open(session.validation_books()[0], "rb") as book, open(excerpt, "wb") as file:
        file.write(book.read(CPU_BYTES))
    return ["--set", f"data.validation={excerpt}"]


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--latents", default="")
    parser.add_argument("--stride", type=int, default=0)
    arguments = parser.parse_args()
    session, device = common.Session(arguments), arguments.device
    latents, stride = arguments.latents or LATENTS[device], arguments.stride or STRIDE[device]
    run = larger_context.run_of(CONTEXT[device])
    wrong = session.train([run])
    rows = []
    for count in latents.split(","):
        try:
            if run.name in wrong:
                raise common.Failed(wrong[run.name])
            words = ["--latents", count, "--stride", str(stride), *scored(session)]
            result = session.evaluate(run, *words, timed=True, batch=64 if device == "cuda" else 8)
            rows.append([int(count), stride, result["bits_per_byte"], result["accuracy"], 1e6 / result["tokens_per_second"], "evaluated"])
        except common.Failed as error:
            rows.append([int(count), stride, "", "", "", str(error)])
    session.table("fewer_latents", ["latents", "stride", "bits_per_byte", "accuracy", "microseconds a token", "state"], rows)
    common.say(session.machine(run))
    good = [row for row in rows if row[2]]
    plot.draw(f"{arguments.out}/fewer_latents_{device}.svg",
              [("bits per byte over latents", "latents in evaluation", {"bits per byte": [(row[0], row[2]) for row in good]}, True),
               ("bits per byte over time", "microseconds a token", {"bits per byte": [(row[4], row[2]) for row in good]})])


if __name__ == "__main__":
    main()
