"""Write an id map that was proposed into the config file, as `cgddi ingest --take-id-map` does. No other character changes."""

from collections.abc import Mapping
from pathlib import Path

from cgddi.core.archive import write_atomic
from cgddi.core.errors import UserError
from cgddi.ingest.mask_values import as_yaml
from cgddi.plan import configfile


def take(path: str, cohort: str, ids: Mapping[str, int]) -> str:
    """Set `cohorts.<cohort>.masks.id_map` in a config file.

    Args:
        path: the file; made when absent.
        cohort: the cohort whose masks are read so.
        ids: value in a mask file -> class id.

    Returns:
        A line that says what was done.

    Raises:
        UserError: the file has cohorts, or an id map of its own for this one; the lines to add are in the message.
        InvalidInput: it is no config.
    """
    lines = f"cohorts:\n  {cohort}: {{ masks: {{ id_map: {as_yaml(ids)} }} }}\n"
    file = Path(path)
    text = file.read_text(encoding="utf-8-sig") if file.exists() else ""
    given = configfile.read([path]).values if text.strip() else {}
    cohorts = given.get("cohorts") or {}
    now = ((cohorts.get(cohort) or {}).get("masks") or {}).get("id_map")
    if now == dict(ids):
        return f"{path}: cohorts.{cohort}.masks.id_map is {as_yaml(ids)} already"
    rows = text.splitlines(keepends=True)
    place = next((number for number, row in enumerate(rows) if row.startswith("cohorts:")), None)
    if now is not None or (cohorts and (cohort in cohorts or rows[place].split("#")[0].strip() != "cohorts:")):
        raise UserError(
            f"{path}: has its own keys for this cohort. Set there by hand: cohorts.{cohort}.masks.id_map: {as_yaml(ids)}"
        )
    if cohorts:  # a block of other cohorts: before the first of them, as far in
        first = next(row for row in rows[place + 1 :] if row.strip() and not row.strip().startswith("#"))
        indent = first[: len(first) - len(first.lstrip())]
        rows.insert(place + 1, f"{indent}{cohort}: {{ masks: {{ id_map: {as_yaml(ids)} }} }}\n")
    elif place is not None:  # `cohorts: {}`, or without a value
        comment = rows[place].partition("#")[2].strip()
        rows[place] = lines.replace("cohorts:", f"cohorts: # {comment}", 1) if comment else lines
    else:
        if rows and not rows[-1].endswith("\n"):
            rows[-1] += "\n"
        rows.append(lines)
    write_atomic(path, "".join(rows))
    after = configfile.read([path]).values
    if after["cohorts"].pop(cohort) != {"masks": {"id_map": dict(ids)}} or not _same(after, given):
        write_atomic(path, text)
        raise UserError(
            f"{path}: could not be changed safely. Set there by hand: cohorts.{cohort}.masks.id_map: {as_yaml(ids)}"
        )
    return f"{path}: cohorts.{cohort}.masks.id_map set to {as_yaml(ids)}"


def _same(after: dict, before: dict) -> bool:
    return {k: v for k, v in after.items() if k != "cohorts" or v} == {
        k: v for k, v in before.items() if k != "cohorts" or v
    }
