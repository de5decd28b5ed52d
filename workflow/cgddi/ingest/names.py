"""Names that come from sheets: what is safe in a path, an archive key and a token, and how a slug is derived."""

import re
import unicodedata
from functools import lru_cache

IMAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
COHORT = re.compile(r"[a-z][a-z0-9_-]{0,63}")
SLUG = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
TOKEN = re.compile(r"<[A-Za-z0-9_-]{1,63}>")

RESERVED_SLUGS = frozenset({"healthy"})
"""Slugs the workflow uses itself: healthy canvases carry the concept `healthy`."""

_ALLOWED = {
    IMAGE_ID: "letters a-z and A-Z, digits, _ and - (1 to 64 characters)",
    COHORT: "lowercase letters, digits, _ and -, beginning with a letter (1 to 64 characters)",
    SLUG: "lowercase letters, digits and -, beginning and ending with a letter or digit (1 to 63 characters)",
    TOKEN: "<name> with letters, digits, _ and - (1 to 63 characters)",
}


def describe(character: str) -> str:
    """A character as a reader can find it, look-alikes and invisible ones included: `'a' (LATIN SMALL LETTER A)`."""
    name = unicodedata.name(character, f"U+{ord(character):04X}")
    return f"{character!r} ({name})"


def fault(text: str, pattern: re.Pattern[str]) -> str | None:
    """What is wrong with a name, or None.

    Args:
        pattern: `IMAGE_ID`, `COHORT`, `SLUG` or `TOKEN`.

    Returns:
        A sentence that names the first bad character, or the length, and what is allowed.
    """
    if pattern.fullmatch(text):
        return None
    allowed = f"allowed are {_ALLOWED[pattern]}"
    if not text:
        return f"is empty; {allowed}"
    for character in text:
        if not re.match(r"[A-Za-z0-9_<>-]", character):
            return f"holds {describe(character)}; {allowed}"
    if len(text) > 64:
        return f"is {len(text)} characters long; {allowed}"
    return f"is not of the allowed form; {allowed}"


def slugify(name: str) -> str:
    """A concept's name as a slug: ASCII, lowercase, everything else a dash.

    `spindle cell nevus of Reed` gives `spindle-cell-nevus-of-reed`, `eczema/atopic dermatitis` gives
    `eczema-atopic-dermatitis`. The disease sheet is what turns a slug back into its name, so two names with one
    slug are an error there. Empty when the name has no Latin letter or digit.
    """
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only.lower()).strip("-")


def path_fault(text: str) -> str | None:
    """What is wrong with a file path as written in a sheet, or None: control characters and absurd length only."""
    for character in text:
        if not character.isprintable():
            return f"holds the unprintable character {describe(character)}"
    if len(text) > 1000:
        return f"is {len(text)} characters long"
    return None


UNKNOWN = "unknown"
"""The tone of a photo whose tone nobody knows: it may be a donor or a canvas, and stands in no figure by tone."""

_NOBODY_KNOWS = frozenset(
    ("", "unknown", "-1", "-1.0", "na", "n/a", "nan", "none", "null", "-", "not known", "missing")
)
_ROMAN = {"i": 1, "ii": 2, "iii": 3, "iv": 4, "v": 5, "vi": 6}
_TYPES = ("", "light", "light", "medium", "medium", "dark", "dark")
"""Fitzpatrick type -> tone."""


@lru_cache
def tone_of(cell: str) -> str | None:
    """A skin tone as sheets write it: light, medium, dark or `UNKNOWN`; None where it is no skin tone.

    Taken are the tones' names, DDI's 12, 34 and 56, Fitzpatrick types 1 to 6 as numbers (also 3.0 and 3,0) or roman, alone or as a
    range within one tone (I-II, 5/6), with or without `type`, `FST` and the like before it, and words for what is not known.
    """
    text = " ".join(cell.casefold().replace("\u2013", "-").split())
    if text in _NOBODY_KNOWS:
        return UNKNOWN
    if text in _TYPES:
        return text
    text = re.sub(r"^(fitzpatrick|skin|photo|type|tone|fst|fp|[ _.:-])+", "", text)
    text = re.sub(r"(?<=\d)[.,]0+(?!\d)", "", text)
    if text in ("12", "34", "56"):
        text = "-".join(text)
    parts = [_ROMAN.get(part, int(part) if part.isascii() and part.isdigit() else 0) for part in _RANGE.split(text)]
    tones = {_TYPES[part] if part < len(_TYPES) else "" for part in parts}
    return tones.pop() or None if len(tones) == 1 else None


_RANGE = re.compile(r" ?(?:-|/|&|\+|\bto\b|\band\b|\bor\b) ?")

_MALIGNANT = {
    **dict.fromkeys(("true", "1", "1.0", "yes", "y", "t", "malignant", "wahr", "vrai", "verdadero"), True),
    **dict.fromkeys(("false", "0", "0.0", "no", "n", "f", "benign", "falsch", "faux", "falso"), False),
}
"""What a cell of column `malignant` may say; spreadsheets save True and False in their own language."""


@lru_cache
def malignant_of(cell: str) -> bool | str | None:
    """Malignancy as sheets write it: True, False or None (not known); any other cell is returned as it is."""
    text = cell.casefold()
    return None if text in _NOBODY_KNOWS else _MALIGNANT.get(text, cell)


LETTERS = {**dict.fromkeys(range(0x370, 0x400), "GREEK"), **dict.fromkeys(range(0x400, 0x530), "CYRILLIC")}


def look_alike(text: str) -> str | None:
    """The first Greek or Cyrillic letter of a word that has Latin letters too, described; None where there is none.

    Such a word looks like another one and is not it: melanoma with a Cyrillic o would make a concept of its own.
    """
    for word in re.findall(r"\w+", text):
        if re.search(r"[A-Za-z]", word):
            for character in word:
                if ord(character) in LETTERS:
                    return describe(character)
    return None
