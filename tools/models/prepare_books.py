#!/usr/bin/env python3
"""Texts for the model `books`: prose in English from Project Gutenberg, unwrapped and with plain quotes.

    tools/models/prepare_books.py GUTENBERG data/books

GUTENBERG is a folder of texts NUMBER.txt (in it or below it), each without Project Gutenberg's header, as in PG-19.
Writes data/books/train and data/books/validation. Needs Python alone.
"""
import pathlib
import re
import sys

# Novels and tales, published before 1919. Their authors died before 1951, most of them long before.
TRAIN = """
105 163 179 215 244 267 343 423 462 540 545 600 605 710 730 770 848 957 967 1028 1376 1377 1416 1573 1810 1826 1899
1944 2151 2163 2182 2450 2609 2637 2638 2694 2746 2753 2758 3089 3177 3804 4514 4792 5230 5341 5674 5692 5747 5784
5837 5998 6900 7071 7114 7245 7308 7853 7950 8600 8744 8871 9169 9504 9911 10086 10094 10123 10226 10234 10319 10377
10433 10434 10755 10876 10922 10929 10935 11050 11328 11373 21514 24349 24814 25151 25725 25726 27300 27365 27533 28203 28657
29135 29452 30372 35012 35859 36359 41445 42486 44247 45022 51925 52907 54091 54647 54783 55597 55948 56686 56797
""".split()
VALIDATION = "513 1305 1704 3182 4264 5823 10756".split()

PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "\ufeff": "", "_": "", "\u00a0": " ", "—": "--", "–": "-"})
# What transcribers and printers add: credits before the book, plates, page numbers, notes.
CREDIT = re.compile(r"(produced|transcribed|e-?text|this e?text|this file|this book was|html version|note: project|\(this)", re.I)
ADDITION = re.compile(r"\[(illustration|transcriber|picture|footnote|pg |page |\d)[^\]]*\]", re.I)


def paragraphs(text):
    """The paragraphs of a book, each on a line of its own. Verse, tables and headings keep their lines."""
    text = ADDITION.sub("", text.replace("\r", "").translate(PLAIN))
    for position, block in enumerate(re.split(r"\n\s*\n", text)):
        lines = [line.strip() for line in block.split("\n") if line.strip()]
        if not lines or (position < 12 and CREDIT.match(lines[0])):
            continue
        wrapped = len(lines) > 1 and min(len(line) for line in lines[:-1]) > 45
        joined = (" " if wrapped else "\n").join(lines)
        if sum(character.isalpha() for character in joined) > 0.5 * len(joined):
            yield re.sub(r"[ \t]+", " ", joined)


def main():
    source, target = map(pathlib.Path, sys.argv[1:3])
    files = {path.stem: path for path in source.rglob("*.txt")}
    for split, numbers in (("train", TRAIN), ("validation", VALIDATION)):
        folder = target / split
        folder.mkdir(parents=True, exist_ok=True)
        total = 0
        for number in numbers:
            text = "\n\n".join(paragraphs(files[number].read_text(encoding="utf-8"))) + "\n"
            (folder / f"{number}.txt").write_text(text, encoding="utf-8")
            total += len(text.encode())
        print(f"{split}: {len(numbers)} books, {total:,} bytes")


main()
