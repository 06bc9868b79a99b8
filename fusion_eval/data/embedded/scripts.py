"""`scripts`: which writing system a printed letter belongs to.

Origin: the DejaVu fonts that matplotlib ships. Licence: Bitstream Vera (free to use, copy and modify); DejaVu's
changes are in the public domain.

A sample is one letter in one face, white on black, at one size on one baseline. Splits are by letter: the same letter
in another face, its upper or lower case, and its presentation forms (Arabic initial, final, ...) are always in the same
split; an accented letter is a letter of its own. Letters that look the same in two scripts (Latin A, Greek Alpha,
Cyrillic A) have no right answer: bitmaps that are equal are left out, those that differ by a few pixels stay and bound
what any model can reach. Samples that are faces of one letter are alike, so the standard error of an accuracy, which
takes them for independent, is somewhat too small. Pillow's FreeType draws the letters: another version of it may
change grey levels, and with them a few samples.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from itertools import zip_longest

import numpy as np
from numpy.typing import NDArray

from fusion_eval.data.embedded.images import SIDE, GreyImages, package_file

__all__ = ["SCRIPTS", "scripts"]

_FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSansMono",
    "DejaVuSerif-Italic",
    "DejaVuSans-BoldOblique",
    "DejaVuSerif-Bold",
)
_SCRIPTS = {  # ISO 15924 code to class name: the twelve scripts of which DejaVu Sans has most letters
    "Latn": "Latin",
    "Grek": "Greek",
    "Cyrl": "Cyrillic",
    "Armn": "Armenian",
    "Geor": "Georgian",
    "Hebr": "Hebrew",
    "Arab": "Arabic",
    "Nkoo": "NKo",
    "Laoo": "Lao",
    "Cans": "Canadian syllabics",
    "Tfng": "Tifinagh",
    "Lisu": "Lisu",
}
SCRIPTS = tuple(_SCRIPTS.values())
"""Classes in the order of their target."""

_SHARES = {"train": (0.0, 0.65), "val": (0.65, 0.75), "test": (0.75, 1.0)}  # of the letters of each script
_MOST = {"train": 800, "val": 50, "test": 111}  # samples of one script
_FONT_SIZE = 22
_BASELINE = 23  # row on which letters stand


def scripts(split: str) -> GreyImages:
    """5,196 train, 427 val and 955 test glyphs of 12 writing systems (classes)."""
    pixels, targets = [], []
    for target, letters in enumerate(_letters(split).values()):
        # Every letter once before any letter in its second face, so that a cap costs faces, not letters.
        rounds = [glyph for face in zip_longest(*letters.values()) for glyph in face if glyph is not None]
        pixels += rounds[: _MOST[split]]
        targets += [target] * min(len(rounds), _MOST[split])
    return GreyImages(np.stack(pixels), np.array(targets, dtype=np.int64))


def _letters(split: str) -> dict[str, dict[str, list[NDArray[np.uint8]]]]:
    """Script to letter to bitmaps, of the letters of one split."""
    chosen = {}
    for script, letters in _glyphs().items():
        # RandomState, because NumPy promises never to change its streams (NEP 19).
        order = [list(letters)[index] for index in np.random.RandomState(0).permutation(len(letters))]
        start, stop = (round(share * len(order)) for share in _SHARES[split])
        chosen[script] = {letter: letters[letter] for letter in order[start:stop]}
    return chosen


@cache
def _glyphs() -> dict[str, dict[str, list[NDArray[np.uint8]]]]:
    """Script to letter to its distinct bitmaps, without those that two scripts share."""
    owner: dict[bytes, tuple[str, str]] = {}
    ambiguous: set[bytes] = set()
    for face in _FACES:
        for script, letter, bitmap in _render(face):
            if owner.setdefault(bitmap, (script, letter))[0] != script:
                ambiguous.add(bitmap)
    glyphs: dict[str, dict[str, list[NDArray[np.uint8]]]] = {script: defaultdict(list) for script in _SCRIPTS}
    for bitmap, (script, letter) in owner.items():
        if bitmap not in ambiguous:
            glyphs[script][letter].append(np.frombuffer(bitmap, np.uint8).reshape(SIDE, SIDE))
    return glyphs


def _render(face: str) -> Iterator[tuple[str, str, bytes]]:
    """The script, the letter and the 32x32 grey levels of every glyph of a face that fits into the tile."""
    from fontTools import unicodedata as scripts_of
    from fontTools.ttLib import TTFont
    from PIL import Image, ImageDraw, ImageFont

    file = package_file("matplotlib", f"mpl-data/fonts/ttf/{face}.ttf")
    # The basic layout is the same on machines with and without libraqm.
    font = ImageFont.truetype(file, _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    with TTFont(file, lazy=True) as tables:
        code_points = sorted(tables.getBestCmap())
    for character in map(chr, code_points):
        script = scripts_of.script(character)
        if script not in _SCRIPTS or not unicodedata.category(character).startswith("L"):
            continue
        left, top, right, bottom = font.getbbox(character, anchor="ms")
        if right - left > SIDE or _BASELINE + top < 0 or _BASELINE + bottom > SIDE or left == right or top == bottom:
            continue
        tile = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(tile).text((SIDE / 2, _BASELINE), character, fill=255, font=font, anchor="ms")
        yield script, unicodedata.normalize("NFKC", character).casefold(), tile.tobytes()
