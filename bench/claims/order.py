#!/usr/bin/env python3
"""Claim 4: the order of the sequence. The image model in raster order, channel by channel and in a random order; for contrast, text
forwards and backwards.

    bench/claims/order.py BUILD cuda|cpu [--together N] [--data FOLDER]

Writes order.tsv and order_DEVICE.svg: bits per dimension of the image, bits per byte of the text."""
import os

import common
import larger_context
import plot

SIZE = {"cuda": 32, "cpu": 16}
ORDERS = ["raster", "r_g_b", "random"]
CONTEXT = {"cuda": 8192, "cpu": 2048}  # of the text
DOCUMENTS = {"cuda": "0", "cpu": "200"}


def reversed_books(session):
    """Folders with the books, their bytes from the last to the first."""
    folders = []
    for split, books in (("train", None), ("validation", session.validation_books())):
        source = os.path.join(session.place("books"), split)
        folder = os.path.join(session.runs, "backwards", split)
        os.makedirs(folder, exist_ok=True)
        for book in books or [os.path.join(source, name) for name in sorted(os.listdir(source))]:
            with open(book, "rb") as file:
                content = file.read()
            with open(os.path.join(folder, os.path.basename(book)), "wb") as file:
                file.write(content[::-1])
        folders.append(folder)
    return tuple(folders)


def image_run(session, order):
    return common.Run(f"image_{order}", "images", "images", [f"data.options={{size: {SIZE[session.device]}, order: {order}}}"])


def runs_of(session):
    """[(what, order, run, options of its evaluation)]"""
    context = CONTEXT[session.device]
    pictures = [("image", order, image_run(session, order), ["--max-documents", DOCUMENTS[session.device]]) for order in ORDERS]
    backward = common.Run(f"books_{context}_backward", "books", reversed_books(session), [f"model.context_length={context}", "data.options={encoding: bytes}"])
    books = common.BOOKS[session.device]
    return [*pictures, ("text", "forward", larger_context.run_of(context), books), ("text", "backward", backward, books)]


def curve(session, run):
    """(step, bits) in training, without the first steps, which all fall from 8."""
    points = [(entry["step"], entry["bits"]) for entry in session.metrics(run) if "bits" in entry]
    return [point for point in points if point[0] > points[-1][0] / 10]


def main():
    arguments = common.parser(__doc__).parse_args()
    session = common.Session(arguments)
    runs = runs_of(session)
    wrong = session.train([run for _, _, run, _ in runs])
    rows, curves = [], {"image": {}, "text": {}}
    for what, order, run, options in runs:
        try:
            if run.name in wrong:
                raise common.Failed(wrong[run.name])
            result = session.evaluate(run, *options)
            rows.append([what, order, result.get("bits_per_dimension", result.get("bits_per_byte")), result["accuracy"], session.state(run)])
            curves[what][order] = curve(session, run)
        except common.Failed as error:
            rows.append([what, order, "", "", str(error)])
    session.table("order", ["what", "order", "bits", "accuracy", "state"], rows)
    common.say(session.machine(runs[0][2]))
    plot.draw(f"{arguments.out}/order_{arguments.device}.svg",
              [(f"{what}: training bits", "step", lines) for what, lines in curves.items() if lines])


if __name__ == "__main__":
    main()
