#!/usr/bin/env python3
"""Claim 1: Perceiver AR, Transformer-XL and Transformer, trained on books in bytes for the same wall-clock time on the same machine.

    bench/claims/equal_time.py BUILD cuda|cpu [--minutes M] [--tries R,R,R] [--try-minutes M] [--tries-only] [--data FOLDER]

Each has the same number of tries at the learning rate, an eighth of the time each by default, and then one run of M minutes (8 on
a GPU, 60 on a CPU) at the best one. The learning rate decays over just that time (schedule.until); the time of a step is measured
first and sets what is counted in steps: validations and warm-up. Writes equal_time.tsv (validation over time), equal_time_final.tsv and equal_time_DEVICE.svg. Nothing
else should run on the device; --gpus 3 --together 3 gives each architecture a GPU."""
import common
import plot

ARCHITECTURES = ["perceiver_ar", "transformer_xl", "transformer"]
MINUTES = {"cuda": 8, "cpu": 60}
TRY_SHARE = 1 / 8  # of the minutes, each try
VALIDATIONS = {"try": 2, "final": 6}  # over a run
# How each is best evaluated, beside its default: targets in smaller steps see more context.
FINER = {"cuda": {"perceiver_ar": ["--stride", "256"], "transformer_xl": ["--memory", "4096"], "transformer": ["--stride", "128"]},
         "cpu": {"perceiver_ar": ["--stride", "128"], "transformer_xl": ["--memory", "1024"], "transformer": ["--stride", "64"]}}


def plan(minutes, step_ms, validations):
    """Settings of a run that takes the given time, by the clock; its steps are estimated."""
    steps = max(validations, int(minutes * 60 * 0.9 * 1000 / step_ms))  # the rest: validations and the checkpoint
    every = steps // validations
    log_every = max(1, every // 10)
    every = every // log_every * log_every
    return [f"schedule.until={minutes}m", f"eval.every={every}", f"train.log_every={log_every}", f"schedule.warmup_steps={steps // 25}"]


class Tuning:
    """The runs of one architecture."""

    def __init__(self, session, architecture, rates, minutes, try_minutes):
        self.session, self.architecture, self.rates = session, architecture, rates
        self.minutes, self.try_minutes = minutes, try_minutes
        self.step_ms = None

    def run(self, what, rate, minutes):
        short = [f"data.validation={self.session.excerpt()}"] if self.session.device == "cpu" else []
        settings = [*short, f"optimizer.learning_rate={rate}", *plan(minutes, self.step_ms, VALIDATIONS[what.split("_")[0]])]
        return common.Run(f"time_{self.architecture}_{what}", f"time_{self.architecture}", "books", settings)

    def measure(self):
        probe = common.Run(f"time_{self.architecture}", f"time_{self.architecture}", "books")
        self.step_ms = self.session.step_ms(probe)

    def tries(self):
        return [self.run(f"try_{rate}", rate, self.try_minutes) for rate in self.rates] if self.step_ms else []

    def best_rate(self):
        losses = []
        for rate, run in zip(self.rates, self.tries()):
            try:
                losses.append((last_validation(self.session, run), rate))
            except (OSError, IndexError):
                pass  # it failed, which train() has said
        if not losses:
            raise common.Failed("every try failed")
        return min(losses)[1]

    def final(self):
        return self.run("final", self.best_rate(), self.minutes)


def validations(session, run):
    """(minutes, step, bits per byte) of each validation, when it ended."""
    elapsed = 0
    for entry in session.metrics(run):
        elapsed = entry.get("elapsed", elapsed)
        if "validation_bits_per_byte" in entry:
            yield elapsed / 60, entry["step"], entry["validation_bits_per_byte"]


def last_validation(session, run):
    return list(validations(session, run))[-1][2]


def result(session, tuning, wrong):
    """Row of the final table, and the points of the curve."""
    name = tuning.architecture
    if tuning.step_ms is None:
        return [name, "", "", "", "", "", wrong.get(name, "")], []
    try:
        final = tuning.final()
        if final.name in wrong:
            raise common.Failed(wrong[final.name])
        curve = list(validations(session, final))
        tried = ", ".join(f"{rate}: {last_validation(session, run):.3f}" if run.name not in wrong else f"{rate}: failed"
                          for rate, run in zip(tuning.rates, tuning.tries()))
        books = [*common.BOOKS[session.device], "--set", f"data.validation={common.yaml_list(session.validation_books())}"]
        default = session.evaluate(final, *books)["bits_per_byte"]
        finer = session.evaluate(final, *books, *FINER[session.device][name])["bits_per_byte"]
        return [name, tuning.step_ms, tried, curve[-1][1], session.minutes(final), default, finer], curve
    except common.Failed as error:
        return [name, tuning.step_ms, "", "", "", "", str(error)], []


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--tries", default="5e-4,1e-3,2e-3", help="learning rates to try, the same for all")
    parser.add_argument("--try-minutes", type=float, default=0, help="of each try (default: an eighth of --minutes)")
    parser.add_argument("--tries-only", action="store_true", help="stop after the tries; the next call goes on from them")
    parser.add_argument("--only", default=",".join(ARCHITECTURES), help="architectures to train now; the table has what is there")
    arguments = parser.parse_args()
    minutes, arguments.minutes = arguments.minutes or MINUTES[arguments.device], 0
    session = common.Session(arguments)
    try_minutes = arguments.try_minutes or minutes * TRY_SHARE
    tunings = [Tuning(session, name, arguments.tries.split(","), minutes, try_minutes) for name in ARCHITECTURES]
    wanted = [tuning for tuning in tunings if tuning.architecture in arguments.only.split(",")]
    wrong = {}
    for tuning in tunings:
        try:
            tuning.measure()
        except common.Failed as error:
            wrong[tuning.architecture] = str(error)
    wrong.update(session.train([run for tuning in wanted for run in tuning.tries()], alone=True))
    if arguments.tries_only:
        return
    finals = []
    for tuning in wanted:
        try:
            finals.append(tuning.final())
        except common.Failed as error:
            common.say(f"{tuning.architecture}: {error}")
    wrong.update(session.train(finals, alone=True))
    results = {tuning.architecture: result(session, tuning, wrong) for tuning in tunings}
    session.table("equal_time", ["architecture", "minutes", "step", "bits_per_byte"],
                  [[name, *point] for name, (_, curve) in results.items() for point in curve])
    session.table("equal_time_final", ["architecture", "step_ms", "tries: bits_per_byte", "steps", "minutes", "bits_per_byte", "bits_per_byte, finer"],
                  [row for row, _ in results.values()])
    plot.draw(f"{arguments.out}/equal_time_{arguments.device}.svg",
              [("validation bits per byte", "minutes", {name: [(m, bits) for m, _, bits in curve] for name, (_, curve) in results.items()})])


if __name__ == "__main__":
    main()
