"""The disease sheet: raw names joined into concepts, each with a slug safe in paths and the token of its embedding."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cgddi.core.errors import Problem
from cgddi.ingest.names import RESERVED_SLUGS, SLUG, TOKEN, fault, look_alike, slugify
from cgddi.ingest.table import Table, check_columns, read_table

DISEASE_COLUMNS = ("raw", "concept", "slug", "token")
BUILTIN = ("builtin:ddi", "builtin:fitzpatrick17k")


@dataclass(frozen=True, slots=True)
class Concept:
    """What one or several raw names stand for: a slug safe in paths, a readable name and the token of its embedding."""

    slug: str
    name: str
    token: str


def read_diseases(diseases: str | Path) -> tuple[dict[str, Concept], list[Problem]]:
    """The disease sheet (a csv file or one of `BUILTIN`) as {raw name: concept}, and what is wrong with it."""
    path = os.fspath(diseases)
    if path in BUILTIN:
        path = os.path.join(os.path.dirname(__file__), f"{path.removeprefix('builtin:')}_diseases.csv")
    elif path.startswith("builtin:"):
        remedy = f"Choose {' or '.join(BUILTIN)}, or a csv file."
        return {}, [Problem(path, "there is no such built-in disease sheet", remedy)]
    return check_diseases(read_table(path))


def check_diseases(table: Table) -> tuple[dict[str, Concept], list[Problem]]:
    """A disease table as {raw name: concept}, and its problems: unsafe or shared slugs and tokens, doubled raw names.

    Slug and token are derived where the sheet has none: the slug from the concept's name, the token as `<slug>`.
    """
    problems = table.problems + check_columns(table, DISEASE_COLUMNS[:2], DISEASE_COLUMNS[2:])
    known: dict[str, Concept] = {}
    by_name: dict[str, Concept] = {}
    owners: dict[tuple[str, str], str] = {}
    if not {"raw", "concept"} <= set(table.columns):
        return known, problems
    for line, cells in table.rows:
        name, slug = cells["concept"], cells.get("slug") or slugify(cells["concept"])
        concept = Concept(slug, name, cells.get("token") or f"<{slug}>")
        found = list(_name_faults(cells, known))
        earlier = by_name.setdefault(name, concept)
        known.setdefault(cells["raw"], earlier)
        if earlier is concept:
            found += _concept_faults(concept, owners)
        elif earlier != concept:
            message = f"concept {name!r} has slug {earlier.slug!r} and token {earlier.token!r} in an earlier row"
            remedy = "Give a concept the same slug and token in all its rows."
            found.append(("slug", f"{slug} {concept.token}", message, remedy))
        for column, value, message, remedy in found:
            problems.append(Problem(table.source, message, remedy, row=line, column=column, value=value))
    if not table.rows and not problems:
        problems.append(Problem(table.source, "has no rows", "Write one row per raw disease name."))
    return known, problems


Finding = tuple[str, str, str, str]
"""Column, value, message, remedy."""


def _name_faults(cells: dict[str, str], known: dict[str, Concept]) -> Iterator[Finding]:
    for column in ("raw", "concept"):
        if not cells[column]:
            yield column, "", "is empty", "Fill it in or remove the row."
        elif not cells[column].isprintable():
            yield column, cells[column], "holds an unprintable character", "Write it in plain text."
        elif strange := look_alike(cells[column]):
            remedy = (
                "Type the name again, also in the table: it looks like another one and would be a disease of its own."
            )
            yield column, cells[column], f"holds {strange} among Latin letters", remedy
    if cells["raw"] in known:
        yield "raw", cells["raw"], "this raw name stands in an earlier row too", "Keep one row per raw name."


def _concept_faults(concept: Concept, owners: dict[tuple[str, str], str]) -> Iterator[Finding]:
    if not concept.name:
        return
    wrong = fault(concept.slug, SLUG) or ("is reserved by the workflow" if concept.slug in RESERVED_SLUGS else None)
    if wrong:
        yield "slug", concept.slug, f"the slug {wrong}", "Write another one in column slug."
    elif wrong := fault(concept.token, TOKEN):
        yield "token", concept.token, f"the token {wrong}", "Write another one in column token."
    for column, value in (("slug", concept.slug), ("token", concept.token)):
        other = owners.setdefault((column, value.casefold()), concept.name)
        if value and other != concept.name:
            remedy = f"Write another one in column {column}, or give both rows one concept."
            yield column, value, f"concepts {other!r} and {concept.name!r} share the {column}", remedy
