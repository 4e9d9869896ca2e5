#!/usr/bin/env python3
"""Claim 3: compute chosen at evaluation. A trained Perceiver AR, evaluated with more and fewer latents than it was trained with: one
of text, whose positions are rotations, and one of images, whose positions are a table.

    bench/claims/fewer_latents.py BUILD cuda|cpu [--latents 64,…] [--stride S] [--data FOLDER]

The models are of larger_context.py and order.py, trained if they are not there. Every evaluation scores the same targets in windows that
end at the same places, S targets each: more latents make the same predictions dearer. Writes fewer_latents.tsv and
fewer_latents_DEVICE.svg: bits over latents and over the time a token."""
import common
import larger_context
import order
import plot

CONTEXT = {"cuda": 8192, "cpu": 2048}  # of the text
LATENTS = {"cuda": "64,128,256,512,1024,2048", "cpu": "32,64,128,256,512"}
STRIDE = {"cuda": 64, "cpu": 32}
IMAGES = {"cuda": "100", "cpu": "20"}
BATCH = {"cuda": 64, "cpu": 8}


def models(session):
    """[(what, run, options of the evaluation)]"""
    text = ["--max-documents", "1"] if session.device == "cuda" else ["--set", f"data.validation={session.excerpt()}"]
    return [("text", larger_context.run_of(CONTEXT[session.device]), text),
            ("image", order.image_run(session, "raster"), ["--max-documents", IMAGES[session.device]])]


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--latents", default="")
    parser.add_argument("--stride", type=int, default=0)
    arguments = parser.parse_args()
    session, device = common.Session(arguments), arguments.device
    latents, stride = arguments.latents or LATENTS[device], arguments.stride or STRIDE[device]
    wrong = session.train([run for _, run, _ in models(session)])
    rows = []
    for what, run, options in models(session):
        for count in latents.split(","):
            try:
                if run.name in wrong:
                    raise common.Failed(wrong[run.name])
                words = ["--latents", count, "--stride", str(stride), *options]
                result = session.evaluate(run, *words, timed=True, batch=BATCH[device])
                bits = result.get("bits_per_dimension", result.get("bits_per_byte"))
                rows.append([what, int(count), stride, bits, result["accuracy"], 1e6 / result["tokens_per_second"], "evaluated"])
            except common.Failed as error:
                rows.append([what, int(count), stride, "", "", "", str(error)])
    session.table("fewer_latents", ["model", "latents", "stride", "bits", "accuracy", "microseconds a token", "state"], rows)
    common.say(session.machine(models(session)[0][1]))
    good = [row for row in rows if row[3] != ""]
    kinds = {what: [row for row in good if row[0] == what] for what in ("text", "image")}
    plot.draw(f"{arguments.out}/fewer_latents_{device}.svg",
              [("bits over latents", "latents in evaluation", {what: [(row[1], row[3]) for row in each] for what, each in kinds.items()}, True),
               ("bits over time", "microseconds a token", {what: [(row[5], row[3]) for row in each] for what, each in kinds.items()})])


if __name__ == "__main__":
    main()
