#!/usr/bin/env python3
"""Pictures for the model `emoji`: the glyphs of Noto Color Emoji on white, 32 x 32 pixels.

    apt-get install fonts-noto-color-emoji python3-fonttools python3-pil
    tools/models/prepare_emoji.py data/emoji

Writes data/emoji/train and data/emoji/validation. All emoji that differ only in skin tone, gender or hair are in the same
of the two, so that none in validation has a twin in training. Of five skin tones one is taken, in turn. Training has each
picture in three sizes and, but for flags, letters and figures, mirrored.
"""
import hashlib
import io
import pathlib
import sys

from fontTools.ttLib import TTFont
from PIL import Image, ImageOps

FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
SIDE = 32
TONES = range(0x1F3FB, 0x1F400)
PEOPLE = {0x1F466, 0x1F467, 0x1F468, 0x1F469, 0x1F9D1, 0x2640, 0x2642, 0x200D, 0xFE0F, *TONES, *range(0x1F9B0, 0x1F9B4)}


def codes_of_glyphs(font):
    """The code points of each glyph: one from cmap, several from the ligatures of GSUB."""
    codes = {name: (code,) for code, name in font.getBestCmap().items()}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    parts = [first, *ligature.Component]
                    if all(part in codes for part in parts):
                        codes.setdefault(ligature.LigGlyph, sum((codes[part] for part in parts), ()))
    return codes


def family(codes):
    """What an emoji shows, whoever shows it: its code points without people, tones and genders."""
    rest = tuple(sorted(code for code in codes if code not in PEOPLE))
    return rest or ("people",)


def has_direction(codes):
    """Flags, letters, figures and signs must not be mirrored."""
    return any(code < 0x2600 or 0x1F100 <= code < 0x1F300 or 0x1F500 <= code < 0x1F568 for code in codes)


def squared(picture):
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    square.alpha_composite(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square.convert("RGB")


def scaled(picture, side):
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    canvas.paste(picture.resize((side, side), Image.LANCZOS), ((SIDE - side) // 2, (SIDE - side) // 2))
    return canvas


def pictures():
    """(code points, picture) of each emoji, one of the five skin tones."""
    font = TTFont(FONT)
    codes = codes_of_glyphs(font)
    seen = set()
    for name, glyph in sorted(font["CBDT"].strikeData[0].items()):
        data = getattr(glyph, "imageData", None)
        if not data or name not in codes or data in seen:
            continue
        seen.add(data)
        tones = [code - TONES.start for code in codes[name] if code in TONES]
        bare = repr([code for code in codes[name] if code not in TONES])
        chosen = hashlib.md5(bare.encode()).digest()[0] % 5
        if any(code >= 0xE0000 for code in codes[name]):  # flags of states and provinces
            continue
        if any(tone != chosen for tone in tones) or len(codes[name]) == 1 and codes[name][0] in TONES:
            continue
        yield codes[name], squared(Image.open(io.BytesIO(data)).convert("RGBA"))


def main():
    target = pathlib.Path(sys.argv[1])
    for split in ("train", "validation"):
        (target / split).mkdir(parents=True, exist_ok=True)
    count = {"train": 0, "validation": 0}
    for codes, picture in pictures():
        held_out = hashlib.md5(repr(family(codes)).encode()).digest()[0] < 13  # of 256: one in twenty
        split = "validation" if held_out else "train"
        count[split] += 1
        name = "_".join(f"{code:x}" for code in codes)
        mirrors = [False] if held_out or has_direction(codes) else [False, True]
        for mirror in mirrors:
            for side in [SIDE] if held_out else [SIDE, SIDE - 2, SIDE - 5]:
                drawn = scaled(ImageOps.mirror(picture) if mirror else picture, side)
                drawn.save(target / split / f"{name}{'_mirrored' * mirror}_{side}.png")
    print(count)


main()
