"""Delimited text as rows with line numbers. Comma, semicolon and tab, byte-order mark and CRLF are all read quietly."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from cgddi.core.errors import Problem


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
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        return Table(
            source,
            problems=[
                Problem(
                    source, "no such file", "Correct the path, or write the sheet with `cgddi ingest` (see README.md)."
                )
            ],
        )
    except OSError as error:
        message = f"cannot be read ({error.strerror})"
        return Table(source, problems=[Problem(source, message, "Correct its rights or path.")])
    remedy = "Save it as a csv file in UTF-8 (in a spreadsheet: 'CSV UTF-8')."
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data:
        what = "is UTF-16 or not a text file" if data[:2] != b"PK" else "is a spreadsheet, not a text file"
        return Table(source, problems=[Problem(source, what, remedy)])
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = data.count(b"\n", 0, error.start) + 1
        found = data[max(0, error.start - 15) : error.start + 5].decode("latin-1")
        return Table(source, problems=[Problem(source, "is not UTF-8 text", remedy, row=row, value=found)])
    return parse_table(source, text)


def parse_table(source: str, text: str) -> Table:
    """Parse delimited text (see `read_table`); the separator is the one most frequent in the header line."""
    table = Table(source)
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        for cells in reader:
            cells = [cell.strip(" \t") for cell in cells]
            if any(cells):
                _take(table, line, cells)
            line = reader.line_num + 1
    except csv.Error as error:
        remedy = "Close every quote, and double a quote that belongs to the text."
        table.problems.append(Problem(source, f"cannot be parsed ({error})", remedy, row=line))
    if not table.columns and not table.problems:
        table.problems.append(Problem(source, "is empty", "Write a header line and one row per item."))
    return table


def _take(table: Table, line: int, cells: list[str]) -> None:
    if not table.columns:
        table.columns = cells
        for name in sorted({name for name in cells if cells.count(name) > 1}):
            message = f"column {name!r} stands {cells.count(name)} times in the header"
            table.problems.append(Problem(table.source, message, "Keep one of them.", row=line, column=name))
    elif len(cells) != len(table.columns):
        message = f"has {len(cells)} cells, the header has {len(table.columns)}"
        remedy = "Give every row one cell per column; quote a cell that holds the separator."
        table.problems.append(Problem(table.source, message, remedy, row=line))
    else:
        table.rows.append((line, dict(zip(table.columns, cells, strict=True))))


def check_columns(
    table: Table, required: Sequence[str], optional: Sequence[str] = (), strict: bool = True
) -> list[Problem]:
    """Problems with a table's header.

    Args:
        table: the table as read.
        required: columns it must have.
        optional: columns it may have.
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
