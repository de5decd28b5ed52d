"""Names that come from sheets: what is safe in a path, an archive key and a token, and how a slug is derived."""

from __future__ import annotations

import re
import unicodedata

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
        text: the name.
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
