#!/usr/bin/env python3
"""Claim 2: a larger context at the same compute. Perceiver AR on books in bytes with growing context, and the same latents, steps,
batch and rotary frequencies.

    bench/claims/larger_context.py BUILD cuda|cpu [--together N] [--contexts 1024,…] [--data FOLDER]

Writes larger_context.tsv and larger_context_DEVICE.svg: bits per byte on the validation books, by position in the book too, and the
time of a training step."""
import contextlib

import common
import plot

STRIDE = {"cuda": "512", "cpu": "128"}  # half of the shortest context: every target sees at least so much
CONTEXTS = {"cuda": [1024 << i for i in range(6)], "cpu": [256 << i for i in range(5)]}
WAVELENGTH = {"cuda": 32768, "cpu": 4096}  # of the rotary positions, the longest of all rows: the default follows the context


def run_of(context):
    return common.Run(f"books_{context}", "books", "books", [f"model.context_length={context}"])


def compared(session, context):
    """A run of which only the context differs from the others'."""
    base = run_of(context)
    wavelength = max(WAVELENGTH[session.device], context)
    return common.Run(base.name + "_compared", base.config, base.data, [*base.settings, f"model.max_wavelength={wavelength}"])


def by_position(result):
    """{first position of a range: bits per byte in it}."""
    return {int(name.split("-")[0].rstrip("+")): place["nats_per_token"] / 0.6931471805599453 for name, place in result["nats_by_position"].items()}


def evaluation(session, context):
    return session.evaluate(compared(session, context), "--stride", STRIDE[session.device], *common.BOOKS[session.device])


def row(session, context, wrong):
    """(table row, {position: bits})."""
    run = compared(session, context)
    try:
        if run.name in wrong:
            raise common.Failed(wrong[run.name])
        result = evaluation(session, context)
        places = by_position(result)
        late = {position: bits for position, bits in places.items() if position >= 4096}
        return [context, session.step_ms(run), result["bits_per_byte"], *(places.get(first) for first in (0, 4096, 32768, 131072)), session.state(run)], late
    except common.Failed as error:
        return [context, "", "", "", "", "", "", str(error)], {}


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--contexts", default="", help="a list of context lengths (default: 1k to 32k on a GPU, 256 to 4k on a CPU)")
    arguments = parser.parse_args()
    session = common.Session(arguments)
    contexts = [int(word) for word in arguments.contexts.split(",")] if arguments.contexts else CONTEXTS[arguments.device]
    wrong = session.train([compared(session, context) for context in reversed(contexts)])  # the longest first
    for context in contexts:  # before the steps are timed, which waits until nothing else runs
        if compared(session, context).name not in wrong:
            with contextlib.suppress(common.Failed):  # which is said below
                evaluation(session, context)
    rows = {context: row(session, context, wrong) for context in contexts}
    session.table("larger_context", ["context", "step_ms", "bits_per_byte", "at 0-511", "at 4096-8191", "at 32768-65535", "at 131072 and later", "state"],
                  [each for each, _ in rows.values()])
    common.say(session.machine(compared(session, contexts[0])))
    plot.draw(f"{arguments.out}/larger_context_{arguments.device}.svg",
              [("bits per byte", "context, bytes", {"bits per byte": [(c, each[2] or None) for c, (each, _) in rows.items()]}, True),
               ("bits per byte by position in the book", "position from", {f"context {plot.short(c)}": sorted(late.items()) for c, (_, late) in rows.items()}, True)])


if __name__ == "__main__":
    main()
