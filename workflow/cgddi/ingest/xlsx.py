"""The first sheet of an Excel workbook (.xlsx) as rows of text, as Excel itself would save it as csv. Light: standard library only.

Source: ECMA-376, part 1, sections 18.3 (cells) and 18.4 (shared strings).
"""

import io
import re
import zipfile
from xml.etree import ElementTree

MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
LARGEST = 256 << 20
"""Bytes of a part, unpacked: more is no sheet of photos."""


def rows_of(data: bytes) -> list[list[str]]:
    """Cells of the first sheet by row, empty rows and cells included, so that row k of the list is row k + 1 of the sheet.

    Raises:
        ValueError: no workbook that can be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            names = [name for name in book.namelist() if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name)]
            if not names:
                raise ValueError("it holds no sheet")
            first = min(names, key=lambda name: int(re.sub(r"\D", "", name)))
            shared = _shared(book) if "xl/sharedStrings.xml" in book.namelist() else []
            sheet = ElementTree.fromstring(_part(book, first))
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, EOFError) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error
    rows: list[list[str]] = []
    for row in sheet.iter(f"{MAIN}row"):
        number = int(row.get("r") or len(rows) + 1)
        rows += [[] for _ in range(min(number, 1 << 20) - len(rows) - 1)]
        cells: list[str] = []
        for cell in row.iter(f"{MAIN}c"):
            column = _column(cell.get("r", "")) or len(cells) + 1
            cells += [""] * (min(column, 1 << 14) - len(cells) - 1)
            cells.append(_text(cell, shared))
        rows.append(cells)
    return rows


def _part(book: zipfile.ZipFile, name: str) -> bytes:
    if book.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} is too large")
    return book.read(name)


def _shared(book: zipfile.ZipFile) -> list[str]:
    root = ElementTree.fromstring(_part(book, "xl/sharedStrings.xml"))
    return ["".join(text.text or "" for text in item.iter(f"{MAIN}t")) for item in root.iter(f"{MAIN}si")]


def _column(place: str) -> int:
    """1 for A5, 27 for AA5."""
    number = 0
    for letter in re.match(r"[A-Z]*", place)[0]:
        number = number * 26 + ord(letter) - 64
    return number


def _text(cell: ElementTree.Element, shared: list[str]) -> str:
    kind, value = cell.get("t", "n"), cell.findtext(f"{MAIN}v") or ""
    if kind == "inlineStr":
        return "".join(text.text or "" for text in cell.iter(f"{MAIN}t"))
    if kind == "s":
        return shared[int(value)] if value.isdigit() and int(value) < len(shared) else ""
    if kind == "b":
        return {"1": "True", "0": "False"}.get(value, "")
    if kind == "e":  # #N/A and the like
        return ""
    return re.sub(r"\.0+$", "", value) if kind == "n" else value
