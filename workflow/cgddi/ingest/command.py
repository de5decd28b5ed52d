"""Write an image sheet from DDI, Fitzpatrick17k or a folder of your own; or an archive of images that others generated.

Photos that show the same picture get one `group`, which splits keep together. With --append, rows of the sheet stay as
they are and the new photos make a cohort of their own, so that nothing generated from the old ones is made again.
Paths are written relative to the working directory when they lie below it: run this where you run snakemake.
"""

import argparse
import inspect
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tqdm import tqdm

from cgddi.core.archive import write_atomic
from cgddi.core.arguments import command_parser, json_value
from cgddi.core.errors import InvalidInput, Problem, UserError, grouped, refuse
from cgddi.core.images import read_photo
from cgddi.ingest import synthetic
from cgddi.ingest.diseases import Concept, check_diseases, read_diseases
from cgddi.ingest.duplicates import Fingerprint, duplicate_sets, fingerprint, fingerprints
from cgddi.ingest.known import Names, known_duplicates, label_errors
from cgddi.ingest.mask_check import check_photo, id_map
from cgddi.ingest.mask_values import as_yaml, look, what_is_wrong
from cgddi.ingest.readers import Incoming, read_ddi, read_fitzpatrick17k, read_folder, read_mapped
from cgddi.ingest.table import parse_table
from cgddi.ingest.table_map import read_table_map
from cgddi.ingest.take_map import take
from cgddi.ingest.writing import Row, checked, free_cohort, merged_diseases, read_existing, split_known, summary
from cgddi.plan.checked import Reading
from cgddi.plan.config import DEFAULT_FILE
from cgddi.plan.sheets import COLUMNS, MEASURED, Photo

COHORTS = {"ddi": "ddi", "fitzpatrick17k": "f17k", "folder": "lab"}
"""Source -> name of the cohort unless --cohort is given."""

DISEASES = {"ddi": "builtin:ddi", "fitzpatrick17k": "builtin:fitzpatrick17k", "folder": None}


def _about(reader: Callable) -> str:
    """The part of a reader's docstring that a user needs."""
    return re.split(r"\n\n(?:Args|Raises):", inspect.cleandoc(reader.__doc__ or ""))[0]


def parser() -> argparse.ArgumentParser:
    """The command line of `cgddi ingest`."""
    top = command_parser("ingest", __doc__)
    sources = top.add_subparsers(dest="source", required=True, metavar="SOURCE")
    raw = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    ddi = sources.add_parser("ddi", help="ddi_metadata.csv and its photos", description=_about(read_ddi), **raw)
    ddi.add_argument("--metadata", required=True, help="ddi_metadata.csv")
    told = {"help": "fitzpatrick17k.csv and its photos", "description": _about(read_fitzpatrick17k)}
    f17k = sources.add_parser("fitzpatrick17k", **told, **raw)
    f17k.add_argument("--metadata", required=True, help="fitzpatrick17k.csv")
    f17k.add_argument("--labels", nargs="+", default=[], metavar="LABEL", help="keep these conditions only")
    f17k.add_argument("--qc", nargs="+", default=[], metavar="VALUE", help="keep these values of column qc only")
    told = {"help": "a table and photos of your own", "description": _about(read_folder)}
    folder = sources.add_parser("folder", **told, **raw)
    folder.add_argument("--table", required=True, dest="metadata", help="a csv with one row per photo")
    folder.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="SHEET=TABLE",
        help="which column of the table is which of the sheet, e.g. image_id=ID; may be given often",
    )
    maps = "shipped (pad-ufes-20, scin, passion, milk10k, fitzpatrick17k-c) or a YAML file"
    folder.add_argument("--map", help=f"column map of a public set: {maps}")
    folder.add_argument("--also", nargs="+", default=[], metavar="CSV", help="with --map: tables joined to the first")
    synthetic.add_parser(sources)
    for source, sub in (("ddi", ddi), ("fitzpatrick17k", f17k), ("folder", folder)):
        sub.add_argument("--images", required=True, help="folder of the photos")
        sub.add_argument(
            "--masks", help="folder of masks named after the photos: X.png, X_mask.png, X_lesion.bmp, X.npy ..."
        )
        sub.add_argument(
            "--mask-ids", type=json_value, metavar="JSON", help="what values in masks mean, where not proposed"
        )
        sub.add_argument(
            "--take-id-map",
            nargs="?",
            const=DEFAULT_FILE,
            metavar="CONFIG",
            help=f"write what values in masks mean into the config, for this cohort (default {DEFAULT_FILE})",
        )
        default = DISEASES[source] or "none: give one, or --write-diseases"
        sub.add_argument("--diseases", default=DISEASES[source], help=f"disease sheet (default {default})")
        sub.add_argument(
            "--write-diseases",
            metavar="CSV",
            help="write a disease sheet for these photos: rows it has stay, names it lacks are taken from --diseases, "
            "and names unknown there become a concept each",
        )
        sub.add_argument("--output", required=True, help="the image sheet to write")
        sub.add_argument("--append", action="store_true", help="add to the sheet instead of writing it anew")
        sub.add_argument("--prefix", default="", help="put before every image id, e.g. clinic-")
        sub.add_argument(
            "--cohort", help=f"name of the photos' cohort (default {COHORTS[source]}; appended: a free one)"
        )
        sub.add_argument(
            "--near-duplicates",
            type=int,
            default=4,
            metavar="BITS",
            help="bits of 64 in which perceptual hashes of one picture may differ (default 4; -1: exact copies only)",
        )
        sub.add_argument(
            "--skip-duplicates",
            action="store_true",
            help="leave out photos that the sheet has already under another id",
        )
        lists = {"nargs": "+", "default": [], "metavar": "CSV"}
        text = "lists of photos that show one picture: two columns of names, or names and a column group"
        sub.add_argument("--known-duplicates", **lists, help=text)
        text = "lists of wrong labels: image_id and the right disease, skin_tone or malignant (none: it is left out)"
        sub.add_argument("--label-errors", **lists, help=text)
        sub.add_argument(
            "--leave-out",
            action="store_true",
            help="leave out, and count, photos that cannot be used, instead of stopping",
        )
        sub.add_argument("--replace", action="store_true", help="write the sheet anew although rows of it were edited")
        sub.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads that read photos")
    return top


def read_incoming(args: argparse.Namespace, cohort: str) -> Incoming:
    """The rows of the chosen source, their ids with the chosen prefix."""
    incoming = _read_source(args, cohort)
    for _, row in incoming.table.rows:
        row["image_id"] = args.prefix + row["image_id"] if row["image_id"] else ""
    if not incoming.table.rows:
        refuse(incoming.table.problems)
        raise UserError("\n".join([f"{args.metadata}: no row is left to write.", *incoming.notes]))
    return incoming


def _read_source(args: argparse.Namespace, cohort: str) -> Incoming:
    if args.source == "ddi":
        return read_ddi(args.metadata, args.images, args.masks, cohort)
    if args.source == "fitzpatrick17k":
        return read_fitzpatrick17k(args.metadata, args.images, args.masks, cohort, args.labels, args.qc)
    if args.map:
        return read_mapped(args.metadata, args.images, args.masks, cohort, read_table_map(args.map), args.also)
    if bad := [pair for pair in args.column if "=" not in pair]:
        raise UserError(f"--column {bad[0]}: write SHEET=TABLE, e.g. --column image_id=ID.")
    return read_folder(args.metadata, args.images, args.masks, cohort, dict(pair.split("=", 1) for pair in args.column))


def known_diseases(args: argparse.Namespace, names: Sequence[str]) -> tuple[dict[str, Concept], str]:
    """Raw name -> concept by the disease sheet in force, and that sheet's text when one is to be written."""
    known: dict[str, Concept] = {}
    if args.diseases:
        known, problems = read_diseases(args.diseases)
        refuse(problems)
    elif not args.write_diseases:
        raise UserError("Give --diseases, or --write-diseases FILE to make a disease sheet of the table's own names.")
    if not args.write_diseases:
        return known, ""
    text = merged_diseases(args.write_diseases, known, names)
    return check_diseases(parse_table(args.write_diseases, text))[0], text


@dataclass
class Found:
    """What looking into the new photos gave.

    Args:
        prints: of each row that can be used, by its place in the list of rows; of the others the problems that speak against it.
        warnings: what is doubtful.
        ids: how values in the masks are read.
        said: lines on the masks' values.
    """

    prints: list[Fingerprint | list[Problem]]
    warnings: list[Problem]
    ids: dict[str, int] | None
    said: list[str]


def look_into(fresh: Sequence[tuple[int, Row]], source: str, cohort: str, args: argparse.Namespace) -> Found:
    """Open each new photo and its mask, once: fingerprints, and what speaks against using them, as `cgddi check` will find it."""
    paths = [row["mask"] for _, row in fresh if row["mask"]]
    values = look(paths)
    ids, said = id_map(args.mask_ids), []
    if ids is None and (wrong := what_is_wrong(values)):
        ids = values.proposed()
        message, remedy = wrong
        said = [f"masks: the {len(paths)} files {message}."]
        if ids is None:
            said.append(f"  {remedy} (`--mask-ids` and `--take-id-map` set it for cohort {cohort})")
        elif not args.take_id_map:
            said.append(
                f"  Proposed: cohorts.{cohort}.masks.id_map: {as_yaml(ids)}; add --take-id-map to write it into the config."
            )
    reading = Reading(ids)

    def one(entry: tuple[int, Row]) -> tuple[Fingerprint | list[Problem], list[Problem]]:
        line, row = entry
        photo = Photo(
            row["image_id"], row["file"], cohort, row["disease"], "", "", None, row["mask"] or None, None, line
        )
        try:
            image = read_photo(row["file"])[0]
        except UserError:
            image = None  # told by the check
        problems, warnings = check_photo(photo, source, reading, image)
        problems = (
            problems
            if ids or values.are_ids
            else [p for p in problems if p.column != "mask" or "class" not in p.message]
        )
        if problems or image is None:
            return problems, []
        return fingerprint(row["file"], image), [] if said and ids is None else warnings

    with ThreadPoolExecutor(max(1, args.threads)) as pool:
        found = list(tqdm(pool.map(one, fresh), total=len(fresh), desc="look into photos", unit="photo"))
    return Found([first for first, _ in found], [w for _, warnings in found for w in warnings], ids, said)


def group_duplicates(
    existing: Sequence[Row], fresh: list[tuple[int, Row]], found: Found, source: str, args: argparse.Namespace
) -> tuple[list[Row], list[str]]:
    """Give photos that show the same picture one `group`; rows of the existing sheet stay as they are.

    The group is one that a photo of the set has already, or else the id of one of them: see `_groups`.

    Returns:
        The rows to add, and lines that say what was found.

    Raises:
        InvalidInput: new photos that cannot be used (Fitzpatrick17k, and with --leave-out: left out and counted).
    """
    rows = [row for _, row in fresh]
    places = {id(row): _place(row["file"], os.path.dirname(args.output)) for row in existing}
    old = [row for row in existing if os.path.isfile(places[id(row)])]
    unfit = {id(row): bad for row, bad in zip(rows, found.prints, strict=True) if isinstance(bad, list)}
    said = []
    if unfit and args.source != "fitzpatrick17k" and not args.leave_out:
        raise InvalidInput([problem for problems in unfit.values() for problem in problems])
    if unfit:
        said.append(f"{len(unfit)} photos that cannot be read or used left out:")
        said += [f"  {line}" for line in grouped([problem for problems in unfit.values() for problem in problems])[:20]]
    prints = [*fingerprints([places[id(row)] for row in old], args.threads), *found.prints]
    pairs = [(r, p) for r, p in zip([*old, *rows], prints, strict=True) if isinstance(p, Fingerprint)]
    numbers = {id(row): number for number, (row, _) in enumerate(pairs)}
    names, alike = Names((row for row, _ in pairs), args.prefix), []
    for path in args.known_duplicates:
        sets, line = known_duplicates(path, names)
        alike += [[numbers[id(row)] for row in members] for members in sets]
        said.append(line)
    earlier, skipped = {id(row) for row in old}, set()
    for members in duplicate_sets([p for _, p in pairs], args.near_duplicates, alike):
        same = [pairs[i][0] for i in members]
        new = [row for row in same if id(row) not in earlier]
        if not new:
            continue
        line = f"one picture: {', '.join(row['image_id'] for row in same)}"
        if len(new) < len(same) and args.skip_duplicates:
            skipped |= {id(row) for row in new}
            said.append(f"{line}; new ones left out")
            continue
        groups = _groups([row for row in same if id(row) in earlier], new)
        said.append(f"{line} -> group {groups[0]}")
        if any(row["group"] != groups[0] for row in same if id(row) in earlier):
            said.append(
                "  the sheet's earlier rows were not changed: set their group yourself, or use --skip-duplicates"
            )
        _regroup(rows, set(groups[1:]), new, groups[0])
    return [row for row in rows if id(row) not in unfit and id(row) not in skipped], said


def _groups(earlier: Sequence[Row], new: Sequence[Row]) -> list[str]:
    """Groups that a set of photos has, or else an id for it; the first counts. Rows of the sheet go before new ones, and then the
    alphabet decides, so that the order of the rows does not matter."""
    groups = [group for rows in (earlier, new) for group in sorted({row["group"] for row in rows} - {""})]
    return list(dict.fromkeys(groups)) or [min(row["image_id"] for row in earlier or new)]


def _place(path: str, beside: str) -> str:
    return path if os.path.exists(path) else os.path.join(beside, path)


def _regroup(rows: Sequence[Row], merged: set[str], new: Sequence[Row], group: str) -> None:
    chosen = {id(row) for row in new}
    for row in rows:
        if id(row) in chosen or row["group"] in merged:
            row["group"] = group


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi ingest`."""
    args = parser().parse_args(argv)
    if args.source == "synthetic":
        return synthetic.run(args)
    existing: list[Row] = []
    if args.append:
        existing = read_existing(args.output) if os.path.exists(args.output) else []
    cohort = args.cohort or free_cohort(COHORTS[args.source], {row["cohort"] for row in existing})
    incoming = read_incoming(args, cohort)
    for path in args.label_errors:
        incoming.table.rows, lines = label_errors(path, incoming.table.rows, args.prefix)
        incoming.notes += lines
    known, disease_text = known_diseases(args, [row["disease"] for _, row in incoming.table.rows if row["disease"]])
    refuse(incoming.problems(known, args.write_diseases or args.diseases))
    fresh, already = split_known(existing, incoming.table, os.path.dirname(args.output))
    found = look_into(fresh, incoming.table.source, cohort, args)
    rows, said = group_duplicates(existing, fresh, found, incoming.table.source, args)
    _refuse_loss(args, rows)
    if not rows and not existing:
        raise UserError("\n".join([f"{args.metadata}: no row is left to write.", *incoming.notes, *said]))
    text, sheets = checked(args.output, [*existing, *rows], known)
    if disease_text:
        write_atomic(args.write_diseases, disease_text)
    if rows or not args.append:
        write_atomic(args.output, text)
    print("\n".join([*incoming.notes, *said, summary(sheets)]))
    for warning in grouped(found.warnings):
        print(f"warning: {warning}")
    if args.take_id_map and found.ids:
        found.said.append(take(args.take_id_map, cohort, found.ids))
    if found.said:
        print("\n".join(found.said))
    if args.append:
        print(f"{len(rows)} rows added" + (f" as cohort {cohort}" if rows else "") + f", {already} there already")
    if strangers := sorted({row["disease"] for row in existing} - set(known)):
        print(f"{len(strangers)} disease names of earlier rows are not in this disease sheet, e.g. {strangers[0]}: ")
        print("  the workflow reads one disease sheet for all cohorts; join them with --write-diseases")
    return 0


def _refuse_loss(args: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Writing anew must not lose rows that came from elsewhere, nor what a person wrote into rows."""
    if args.append or args.replace or not os.path.exists(args.output):
        return
    before, after = read_existing(args.output), {row["image_id"]: row for row in rows}
    lost = {row["image_id"] for row in before} - set(after)
    if lost:
        raise UserError(
            f"{args.output}: holds {len(lost)} rows that are not in {args.metadata} (e.g. {min(lost)}) and would be "
            "lost. Use --append, or move the sheet away first."
        )
    edited = [
        (old["image_id"], column, old[column], after[old["image_id"]].get(column, ""))
        for old in before
        for column in (*COLUMNS, *MEASURED)
        if old.get(column, "") != after[old["image_id"]].get(column, "")
    ]
    if edited:
        image, column, old, new = edited[0]
        raise UserError(
            f"{args.output}: {len({entry[0] for entry in edited})} rows say something else than would be written (e.g. {image}, "
            f"{column}: {old!r} would become {new!r}). Use --replace to write them anew, or --append to keep them."
        )
