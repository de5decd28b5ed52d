"""Errors a user can fix: every message names the place and the remedy, and none shows a traceback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
        message: what is wrong.
        remedy: what to do about it.
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
        place = self.source
        if self.row is not None:
            place += f", row {self.row}"
        if self.column is not None:
            place += f", column {self.column}"
        if self.line is not None:
            place += f", line {self.line}"
        if self.key is not None:
            place += f", {self.key}"
        found = "" if self.value is None else f" (found {str(self.value)[:80]!r})"
        return f"{place}: {self.message}{found}. {self.remedy}"


class InvalidInput(UserError):
    """Several problems reported at once.

    Args:
        problems: all findings, in the order of the file.
        shown: how many are printed; the rest are counted.
    """

    def __init__(self, problems: Sequence[Problem], shown: int = 50):
        self.problems = list(problems)
        lines = [f"{len(self.problems)} problem(s) in the input:"]
        lines += [f"  - {p}" for p in self.problems[:shown]]
        if len(self.problems) > shown:
            lines.append(f"  - ... and {len(self.problems) - shown} more")
        super().__init__("\n".join(lines))
