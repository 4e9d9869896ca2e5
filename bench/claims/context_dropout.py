#!/usr/bin/env python3
"""Claim 5: context dropout. Quality with and without it, and what it saves if the kept positions are an exact subset that alone is computed
(model.train_input_positions).

    bench/claims/context_dropout.py BUILD cuda|cpu [--together N] [--data FOLDER]

On books, which are seen about once, with a long context; and on Tiny Shakespeare, where the model overfits (on a GPU only: on a CPU it
would take too long to): there the best checkpoint counts. Writes context_dropout.tsv and context_dropout_DEVICE.svg."""
import common
import larger_context
import plot

CONTEXT = {"cuda": 16384, "cpu": 2048}  # of the books
SHARES = [0.5, 0.9]  # dropped


def kinds(context):
    """[(name, dropped share, settings)]: everything, dropped by chance, exact subsets."""
    dropped = [(f"dropout {share}", share, [f"model.context_dropout={share}"]) for share in SHARES]
    subsets = [(f"subset of {1 - share:.0%}", share, [f"model.train_input_positions={round(context * (1 - share))}"]) for share in SHARES]
    return [("all", 0.0, []), *dropped, *subsets]


def books(context):
    base = larger_context.run_of(context)
    return [(kind, share, common.Run(base.name + suffix(kind), base.config, base.data, base.settings + settings)) for kind, share, settings in kinds(context)]


def shakespeare():
    return [(kind, share, common.Run("shakespeare" + suffix(kind), "shakespeare", "shakespeare", settings)) for kind, share, settings in kinds(1024)]


def suffix(kind):
    return "" if kind == "all" else "_" + kind.replace(" ", "_").replace("%", "")


def row(session, data, kind, run, wrong):
    try:
        if run.name in wrong:
            raise common.Failed(wrong[run.name])
        training = [entry["bits"] for entry in session.metrics(run) if "bits" in entry][-1]
        step_ms = session.step_ms(run) if data == "books" else None  # a short context saves nothing
        return [data, kind, step_ms, training, session.evaluate(run, *common.BOOKS[session.device])["bits_per_byte"], session.state(run)]
    except common.Failed as error:
        return [data, kind, "", "", "", str(error)]


def points(session, runs):
    """Lines of the validation over the steps."""
    return {kind: [(entry["step"], entry["validation_bits_per_byte"]) for entry in session.metrics(run) if "validation_bits_per_byte" in entry]
            for kind, _, run in runs if session.finished(run)}


def main():
    arguments = common.parser(__doc__).parse_args()
    session = common.Session(arguments)
    data = {"books": books(CONTEXT[arguments.device]), "shakespeare": shakespeare() if arguments.device == "cuda" else []}
    wrong = session.train([run for runs in data.values() for _, _, run in runs])
    rows = [row(session, name, kind, run, wrong) for name, runs in data.items() for kind, _, run in runs]
    session.table("context_dropout", ["data", "positions", "step_ms", "training bits", "bits_per_byte", "state"], rows)
    common.say(session.machine(data["books"][0][2]))
    shares = {kind: share for kind, share, _ in kinds(1024)}
    good = [each for each in rows if each[4] != "" and each[0] == "books"]
    quality, cost = ({way: [(shares[each[1]], each[column]) for each in good if each[1] == "all" or each[1].startswith(way)] for way in ("dropout", "subset")}
                     for column in (4, 2))
    plot.draw(f"{arguments.out}/context_dropout_{arguments.device}.svg",
              [("books: bits per byte", "share of the context dropped", quality), ("books: ms a training step", "share of the context dropped", cost),
               ("Tiny Shakespeare: validation bits per byte", "step", points(session, data["shakespeare"]))])


if __name__ == "__main__":
    main()
