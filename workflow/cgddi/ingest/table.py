"""Delimited text and Excel workbooks as rows with line numbers, also as spreadsheets and pandas save them.

Read quietly: comma, semicolon and tab, a line `sep=;`, byte-order marks, CRLF, UTF-8, UTF-16 and Windows-1252, empty columns
and rows at the end, and a first column of row numbers without a name.
"""

import csv
import io
import os
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cgddi.core.errors import Problem

AS_CSV = "Save it as a csv file in UTF-8 (in a spreadsheet: 'CSV UTF-8')."


@dataclass
class Table:
    """A delimited text file.

    Args:
        source: the file's name, as problems name it.
        columns: header cells, blanks around them stripped.
        rows: one (line, {column: cell}) per row, line 1 being the header; spaces and tabs around cells are stripped.
        problems: what is wrong with the file itself (encoding, quoting, ragged rows, duplicate columns).
    """

    source: str
    columns: list[str] = field(default_factory=list)
    rows: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_table(path: str | Path) -> Table:
    """Read a delimited file. What is wrong with it stands in `Table.problems`; nothing is raised."""
    source = os.fspath(path)

    def refused(what: str, remedy: str, **where: Any) -> Table:
        return Table(source, problems=[Problem(source, what, remedy, **where)])

    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return refused("no such file", "Correct the path, or write the sheet with `cgddi ingest` (see README.md).")
    except OSError as error:
        return refused(f"cannot be read ({error.strerror})", "Correct its rights or path.")
    if data[:4] == b"PK\x03\x04":
        return _workbook(source, data)
    wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    if b"\0" in data and not wide:
        old = data[:4] == b"\xd0\xcf\x11\xe0"
        return refused("is a spreadsheet of an old kind (.xls)" if old else "is not a text file", AS_CSV)
    error: UnicodeDecodeError | None = None
    for encoding in ("utf-16",) if wide else ("utf-8-sig", "cp1252"):
        try:
            return parse_table(source, data.decode(encoding))
        except UnicodeDecodeError as failed:
            error = error or failed
    row = data.count(b"\n", 0, error.start) + 1
    found = data[max(0, error.start - 15) : error.start + 5].decode("latin-1")
    return refused("is not UTF-8 text", AS_CSV, row=row, value=found)


def _workbook(source: str, data: bytes) -> Table:
    """The first sheet of an Excel workbook."""
    table = Table(source)
    try:
        rows = rows_of(data)
    except ValueError as error:
        table.problems.append(Problem(source, f"is a spreadsheet that cannot be read ({error})", AS_CSV))
        return table
    for line, cells in enumerate(rows, start=1):
        cells = [cell.strip(" \t\xa0") for cell in cells]
        if any(cells):
            _take(table, line, cells + [""] * (len(table.columns) - len(cells)))
    return _finished(table)


def parse_table(source: str, text: str) -> Table:
    """Parse delimited text (see `read_table`); the separator is the one most frequent in the header line."""
    table = Table(source)
    told = re.match(r"sep=([,;\t|])\r?\n", text, re.IGNORECASE)
    header = next((line for line in text.splitlines()[bool(told) :] if line.strip()), "")
    separator = told[1] if told else max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for cells in reader:
            cells = [cell.strip(" \t\xa0") for cell in cells]
            if any(cells) and not (told and line == 1):
                _take(table, line, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        remedy = "Close every quote, and double a quote that belongs to the text."
        table.problems.append(Problem(source, f"cannot be parsed ({error})", remedy, row=line))
    return _finished(table)


def _finished(table: Table) -> Table:
    if not table.columns and not table.problems:
        table.problems.append(Problem(table.source, "is empty", "Write a header line and one row per item."))
    _drop_row_numbers(table)
    return table


def _drop_row_numbers(table: Table) -> None:
    """Take out a column that pandas made of its index: first, without a name of its own, empty or counting the rows."""
    name = table.columns[0] if table.columns else None
    if name is None or not re.fullmatch(r"(Unnamed: \d+)?", name):
        return
    cells = [row[name] for _, row in table.rows]
    counts = [[str(k) for k in range(start, start + len(cells))] for start in (0, 1)]
    if not any(cells) or cells in counts:
        table.columns = table.columns[1:]
        table.rows = [(line, {column: row[column] for column in table.columns}) for line, row in table.rows]


def _take(table: Table, line: int, cells: list[str]) -> None:
    if not table.columns:
        while not cells[-1]:  # columns that a spreadsheet keeps after they were emptied
            cells.pop()
        table.columns = cells
        for name in sorted({name for name in cells if cells.count(name) > 1}):
            message = f"column {name!r} stands {cells.count(name)} times in the header"
            table.problems.append(Problem(table.source, message, "Keep one of them.", row=line, column=name))
    elif len(cells) < len(table.columns) or any(cells[len(table.columns) :]):
        message = f"has {len(cells)} cells, the header has {len(table.columns)}"
        remedy = "Give every row one cell per column; quote a cell that holds the separator."
        table.problems.append(Problem(table.source, message, remedy, row=line))
    else:
        table.rows.append((line, dict(zip(table.columns, cells, strict=False))))


def check_columns(
    table: Table, required: Sequence[str], optional: Sequence[str] = (), strict: bool = True
) -> list[Problem]:
    """Problems with a table's header.

    Args:
        strict: report any other column.
    """
    known, problems = [*required, *optional], []
    if not table.columns:
        return []
    for name in required:
        if name not in table.columns:
            message = f"column {name!r} is missing"
            remedy = f"Add it; the columns are {', '.join(known)}."
            problems.append(Problem(table.source, message, remedy, row=1, column=name))
    for name in dict.fromkeys(table.columns):
        if strict and name not in known:
            near = get_close_matches(name.casefold(), known, n=1)
            remedy = f"Did you mean {near[0]!r}?" if near else f"Remove it; the columns are {', '.join(known)}."
            message = f"unknown column {name!r}" if name else "a column without a name"
            problems.append(Problem(table.source, message, remedy, row=1, column=name or None))
    return problems


MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
LARGEST = 256 << 20
"""Bytes of a part, unpacked: more is no sheet of photos."""


def rows_of(data: bytes) -> list[list[str]]:
    """Cells of the first sheet of an Excel workbook by row, as Excel itself would save it as csv (ECMA-376, part 1, 18.3 and 18.4);
    empty rows and cells included, so that row k of the list is row k + 1 of the sheet.

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
