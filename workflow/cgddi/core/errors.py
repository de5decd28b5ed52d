"""Errors a user can fix: every message names the place and the remedy, and none shows a traceback."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

ONE_LINE = 4
"""Problems of one kind from which on they share a line."""


class UserError(Exception):
    """A mistake in the input or the settings. The command line prints its text and exits with status 2."""


@dataclass(frozen=True)
class Problem:
    """One finding in an input file.

    Args:
        source: the file (a sheet, a config file, an archive).
        row: line in a sheet, the header being line 1; None when the finding is not about one row.
        column: column of a sheet; None when it is about the whole row.
        value: what was found there.
        line: line in a config file.
        key: key of a config file or of a job's settings, with its sections: `lora.rank`.
    """

    source: str
    message: str
    remedy: str
    row: int | None = None
    column: str | None = None
    value: object = None
    line: int | None = None
    key: str | None = None

    def __str__(self) -> str:
        return self.told((), ())

    @property
    def kind(self) -> tuple[str | None, ...]:
        """Equal for problems of one kind: what is wrong with which column of which file, whatever was found there."""
        message, remedy = (re.sub(r"'[^']*'|\d+", "#", text) for text in (self.message, self.remedy))
        return self.source, self.column, self.key, message, remedy

    def told(self, rows: Sequence[int], values: Sequence[object]) -> str:
        """Place, message and remedy.

        Args:
            rows, values: those of further problems of this kind, which are told with it.
        """
        place = self.source
        if self.row is not None:
            place += f", row {self.row}" if not rows else f", rows {listed([self.row, *rows], 6)}"
        if self.column is not None:
            place += f", column {self.column}"
        if self.line is not None:
            place += f", line {self.line}"
        if self.key is not None:
            place += f", {self.key}"
        every = dict.fromkeys(str(value)[:80] for value in (self.value, *values) if value is not None)
        found = f" (found {listed([repr(value) for value in every], 3)})" if every else ""
        return f"{place}: {self.message}{found}. {self.remedy}"


def listed(things: Sequence[object], shown: int) -> str:
    """The first things of a list, and how many more there are: `3, 4, 7 and 42 more`."""
    more = f" and {len(things) - shown} more" if len(things) > shown else ""
    return ", ".join(map(str, things[:shown])) + more


def grouped(problems: Sequence[Problem]) -> list[str]:
    """A line a problem; of one kind, from `ONE_LINE` on, one line for all with their count, in the order of the first."""
    kinds: dict[object, list[Problem]] = {}
    for problem in problems:
        kinds.setdefault(problem.kind, []).append(problem)
    lines = []
    for first, *others in kinds.values():
        if len(others) + 1 < ONE_LINE:
            lines += [str(first), *map(str, others)]
        else:
            rows = [p.row for p in others if p.row is not None]
            lines.append(f"{len(others) + 1} x {first.told(rows, [p.value for p in others])}")
    return lines


class InvalidInput(UserError):
    """Several problems reported at once.

    Args:
        problems: all findings, in the order of the file.
        shown: how many lines are printed; the rest are counted. Problems of one kind share one (see `grouped`).
    """

    def __init__(self, problems: Sequence[Problem], shown: int = 50):
        self.problems = list(problems)
        found = grouped(self.problems)
        lines = [f"{len(self.problems)} problem(s) in the input:"]
        lines += [f"  - {line}" for line in found[:shown]]
        if len(found) > shown:
            lines.append(f"  - ... and {len(found) - shown} more")
        super().__init__("\n".join(lines))


def refuse(problems: Iterable[Problem]) -> None:
    """Raise InvalidInput where there are problems."""
    if found := list(problems):
        raise InvalidInput(found)
