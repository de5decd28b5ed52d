"""How a public set's table says what the image sheet asks for: a small YAML file (shipped: `tables/`)."""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import Field

from cgddi.core.errors import Problem, UserError, refuse
from cgddi.core.settings import Settings, setting
from cgddi.ingest.column_map import read_yaml_map
from cgddi.ingest.table import Table, check_columns, read_table

SHIPPED = Path(__file__).with_name("tables")

SheetColumn = Literal["image_id", "disease", "skin_tone", "malignant", "mask", "group", "mm_per_px"]


class TableMap(Settings):
    """A published table.

    In a template `{column}` stands for a cell, `{a|b}` for the first of several that is not empty, `{one_hot}` for the column among
    `one_hot` that holds 1, `{heaviest}` for the name of most weight in `heaviest`.
    """

    about: str = Field(description="the set")
    licence: str = Field(description="what its authors allow, and where that stands")
    source: str = setting("", "where it is to be had")
    join: str | None = setting(None, "column by which a second table (`--also`) is joined to the first")
    photos: tuple[str | tuple[str, ...], ...] = Field(
        description="a template a photo of the row, or several of which the first is taken that is there; names with or without "
        "folders and ending; `*` stands for anything, and gives a photo each"
    )
    columns: dict[SheetColumn, str] = Field(description="column of the sheet -> template")
    values: dict[SheetColumn, dict[str, str]] = setting({}, "column of the sheet -> cell -> what it means")
    one_hot: tuple[str, ...] = setting((), "columns of which one holds 1")
    heaviest: str | None = setting(
        None, "column with weights by name as Python or JSON writes them, or with a list of names"
    )
    keep: dict[str, str] = setting({}, "column -> regular expression of the whole cell; other rows are left out")

    def needed(self) -> set[str]:
        """Columns that the tables must have; of `{a|b}` one is enough."""
        named = {*self.one_hot, *self.keep, *filter(None, (self.join, self.heaviest))}
        several = ((photo,) if isinstance(photo, str) else photo for photo in self.photos)
        templates = [*self.columns.values(), *(one for photos in several for one in photos)]
        single = {name for text in templates for name in re.findall(r"\{([^{}|]+)\}", text)}
        return (named | single) - {"one_hot", "heaviest"}

    def cells(self, row: Mapping[str, str]) -> dict[str, str]:
        """Cells of the image sheet of a row, but the photo's."""
        row = {**row, "one_hot": self._hot(row), "heaviest": _heaviest(row.get(self.heaviest or "", ""))}
        found = {column: filled(text, row).strip() for column, text in self.columns.items()}
        for column, meanings in self.values.items():
            cell = re.sub(r"\.0+$", "", found.get(column, ""))  # pandas writes 3.0 where some cells are empty
            found[column] = meanings.get(cell, meanings.get("*", cell) if cell else cell)
        return found

    def _hot(self, row: Mapping[str, str]) -> str:
        hot = [name for name in self.one_hot if row.get(name, "").strip() in ("1", "1.0", "True", "true")]
        return hot[0] if len(hot) == 1 else ""


def filled(template: str, row: Mapping[str, str]) -> str:
    """A template with its cells; "" where one that it needs is empty."""
    empty = False

    def cell(match: re.Match[str]) -> str:
        nonlocal empty
        value = next((row[name].strip() for name in match[1].split("|") if row.get(name, "").strip()), "")
        empty |= not value
        return value

    text = re.sub(r"\{([^{}]+)\}", cell, template)
    return "" if empty else text


def _heaviest(cell: str) -> str:
    """Name of most weight in a mapping, or the first of a list; "" where there is none."""
    try:
        value = ast.literal_eval(cell) if cell else {}
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return ""
    if isinstance(value, dict) and value:
        return str(max(value, key=lambda name: (value[name], name)))
    return str(value[0]) if isinstance(value, list) and value else ""


def read_table_map(name: str) -> TableMap:
    """A map: the name of a shipped one, or a YAML file.

    Raises:
        UserError: no such map, or no YAML.
        InvalidInput: keys or values that a map has not.
    """
    return read_yaml_map(TableMap, SHIPPED, name)


def joined(metadata: str, also: list[str], chosen: TableMap) -> tuple[Table, int]:
    """The table with the columns of further ones, and how many of its rows these lack.

    Raises:
        UserError: the map joins tables and only one is given.
        InvalidInput: a table has problems, lacks columns that the map names, or is joined by a key that stands there twice.
    """
    table = read_table(metadata)
    if chosen.join and not also:
        raise UserError(f"--map joins two tables by column {chosen.join}: give the second one by --also.")
    others = [read_table(path) for path in also]
    problems = [problem for one in (table, *others) for problem in one.problems]
    for one in (table, *others) if others else ():
        problems += check_columns(one, [chosen.join or ""], strict=False)
    if not problems:
        have = {column for one in (table, *others) for column in one.columns}
        whole = Table(table.source, sorted(have))
        remedy = f"Take the tables the map is made for, or another map: {chosen.about}."
        problems = [replace(p, remedy=remedy) for p in check_columns(whole, sorted(chosen.needed()), strict=False)]
    for other in others if not problems else ():
        keys = Counter(row[chosen.join] for _, row in other.rows)
        if repeated := next((key for key, count in keys.items() if count > 1), ""):
            message, remedy = (
                "has several rows of one key, of which one alone would be read",
                "Give this table by --table.",
            )
            problems.append(Problem(other.source, message, remedy, column=chosen.join, value=repeated))
    refuse(problems)
    lacking = 0
    for other in others:
        by_key = {row[chosen.join]: row for _, row in other.rows}
        lacking += sum(row[chosen.join] not in by_key for _, row in table.rows)
        table.rows = [(line, by_key.get(row[chosen.join], {}) | row) for line, row in table.rows]
    return table, lacking


def kept(table: Table, chosen: TableMap) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows that the map keeps."""
    for line, row in table.rows:
        if all(re.fullmatch(wanted, row.get(column, "")) for column, wanted in chosen.keep.items()):
            yield line, row
