"""Images that others generated, as an archive like those of the run: with what each shows and descends from, as far as is known.

The source is a folder of images, a csv or parquet table, or WebDataset shards; a column map (--map) says what its columns and
names mean. Name the archive under `synthetic:` in the config.
"""

import argparse
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from cgddi.core.archive import ArchiveWriter, file_sha256, sha256
from cgddi.core.errors import Problem, UserError, refuse
from cgddi.ingest.column_map import NONE, ColumnMap, read_map
from cgddi.ingest.diseases import Concept, read_diseases
from cgddi.ingest.names import COHORT, UNKNOWN, fault, malignant_of, slugify, tone_of
from cgddi.ingest.releases import BATCH, SUFFIXES, Item, items

NEEDED = {"healthy": ("canvas",), "lesion_mapped": ("donor", "canvas"), "semantic": ("canvas", "generator")}
"""Kind -> ways by which real photos enter it."""


def add_parser(sources: Any) -> None:
    """Add `synthetic` to the command line of `cgddi ingest`."""
    sub = sources.add_parser(
        "synthetic",
        help="images that others generated, as an archive",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument(
        "--from", dest="origin", required=True, nargs="+", help="folder, .csv, .parquet files or .tar shards"
    )
    sub.add_argument("--map", required=True, help="column map: cgddi, synderm, export, or a YAML file (docs/given.md)")
    sub.add_argument("--sheet", default="config/images.csv", help="image sheet that donors and canvases stand in")
    sub.add_argument("--diseases", default="builtin:ddi", help="disease sheet (default builtin:ddi)")
    sub.add_argument("--prefix", default="", help="what the sheet puts before the release's image ids, e.g. clinic-")
    sub.add_argument(
        "--learnt-from",
        action="append",
        default=[],
        metavar="GENERATOR=PHOTOS",
        help="what a generator (* for all) was trained on: none, unknown, cohort:NAME, or a file of image ids; over the map's",
    )
    sub.add_argument(
        "--size", type=int, help="scale larger images down to this shorter side in px (default: as they are)"
    )
    sub.add_argument("--output", required=True, help="the .tar to write")
    sub.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads that read and write images")


# ---- rows ------------------------------------------------------------------------------------------


class Reader:
    """Makes manifest rows of fields.

    Args:
        concepts: raw name and slug of diseases -> concept.
        prefix: before the release's image ids.
    """

    def __init__(
        self, chosen: ColumnMap, photos: Mapping[str, Any], concepts: Mapping[str, Concept], prefix: str, name: str
    ):
        self.chosen, self.photos, self.concepts, self.prefix, self.name = chosen, photos, concepts, prefix, name
        self.problems: dict[tuple[str, str], Problem] = {}
        self.strange: Counter[str] = Counter()
        """Diseases that the disease sheet has not -> their images, which are left out."""
        self.stray: Counter[str] = Counter()
        """Photos that the image sheet has not."""
        self.known = 0
        """Images with a donor or a canvas that the sheet has."""
        self.counts: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()

    def row(self, item: Item) -> dict[str, Any] | None:
        """Manifest row of an image; None where it is left out."""
        cells = self.chosen.fields(item.path, item.cells)
        kind = cells["kind"]
        if kind not in NEEDED:
            return self._problem(item, "kind", kind, f"no kind of image; there are {', '.join(NEEDED)}")
        concept = "healthy"
        if kind != "healthy":
            found = self.concepts.get(cells["disease"]) or self.concepts.get(slugify(cells["disease"]))
            if not cells["disease"]:
                return self._problem(item, "disease", "", "no disease")
            if found is None:
                self.strange[cells["disease"]] += 1
                return None
            concept = found.slug
        tone, malignant = tone_of(cells["skin_tone"]), malignant_of(cells["malignant"])
        for field, strange in (("skin_tone", tone is None), ("malignant", isinstance(malignant, str))):
            if strange:
                return self._problem(item, field, cells[field], f"no {field.replace('_', ' ')}")
        ways = {way: self.photo(cells[way]) for way in ("donor", "canvas")}
        generator = None if cells["generator"] in ("", NONE) else cells["generator"]
        unknown = [way for way in NEEDED[kind] if not cells[way]]
        donor = self.photos.get(ways["donor"] or "")
        lender = self.photos.get(ways.get(self.chosen.tone_of or "") or "")
        if tone == UNKNOWN:
            tone = lender.skin_tone if lender and lender.skin_tone != UNKNOWN else None
        if malignant is None and donor is not None:
            malignant = donor.malignant
        key = f"{re.sub(r'[^A-Za-z0-9_-]+', '-', item.path)[-120:].strip('-')}-{sha256(item.path)[:8]}"
        self.counts[kind] += 1
        self.known += any(photo in self.photos for photo in ways.values())
        self.counts["without a skin tone, which every index leaves out"] += tone is None
        return {
            "key": key,
            "id": f"given/{self.name}/{key}",
            "kind": kind,
            "cohort": self.name,
            "concept": concept,
            "tone": tone,
            "malignant": None if kind == "healthy" else malignant,
            **ways,
            "generator": generator,
            "unknown": unknown,
            "origin": item.path,
        }

    def photo(self, cell: str) -> str | None:
        """The id of a photo as the image sheet has it."""
        from cgddi.plan.sheets import padded

        if cell in ("", NONE):
            return None
        stem = Path(cell).stem if Path(cell).suffix.lower() in SUFFIXES else Path(cell).name
        names = [self.prefix + stem, self.prefix + padded(stem)]
        found = next((name for name in names if name in self.photos), None)
        self.stray[names[0]] += found is None
        return found or names[0]

    def _problem(self, item: Item, field: str, cell: str, message: str) -> None:
        where = self.chosen.columns.get(field)
        remedy = f"Name the column, a rule or `values` for {field} in the map" + (
            f" (it reads {where})." if where else "."
        )
        self.problems.setdefault((field, cell), Problem(item.path, message, remedy, value=cell or None))

    def check(self) -> None:
        """Raise what was found so far.

        Raises:
            InvalidInput: cells that mean nothing.
        """
        refuse(self.problems.values())


def lineage_of(generators: Sequence[str], said: Mapping[str, str], reader: Reader) -> dict[str, list[str] | None]:
    """Generator -> ids of the photos it was trained on; None where that is not known.

    Raises:
        UserError: neither none, unknown, a cohort of the sheet nor a file.
    """
    from cgddi.plan.given import ids_of

    found: dict[str, list[str] | None] = {}
    for name in generators:
        text = said.get(name, said.get("*", "unknown"))
        cohort = [p.image_id for p in reader.photos.values() if text == f"cohort:{p.cohort}"]
        if text in (NONE, "unknown"):
            found[name] = [] if text == NONE else None
        elif cohort or os.path.isfile(text):
            found[name] = sorted(cohort or filter(None, map(reader.photo, ids_of(text))))
        else:
            raise UserError(
                f"generator {name}: learnt from {text!r}, which is no file, no cohort of the image sheet, and not `none` or "
                "`unknown`. Correct --learnt-from, or `learnt_from` in the map."
            )
    return found


# ---- images ----------------------------------------------------------------------------------------


def png_of(image: bytes | Path, size: int | None) -> bytes | None:
    """An image as PNG bytes (8-bit RGB), at most `size` px along its shorter side; None where it cannot be read."""
    from cgddi.core.images import encode_png, read_photo

    try:
        photo, notes = read_photo(io.BytesIO(image) if isinstance(image, bytes) else image)
    except UserError:
        return None
    scale = size / min(photo.size) if size else 1
    if scale >= 1 and not notes:
        data = image if isinstance(image, bytes) else image.read_bytes()
        if data[:4] == b"\x89PNG":
            return data
    if scale < 1:
        photo = photo.resize([max(1, round(side * scale)) for side in photo.size], Image.Resampling.LANCZOS)
    import numpy as np

    return encode_png(np.asarray(photo))


def run(args: argparse.Namespace) -> int:
    """Run `cgddi ingest synthetic`."""
    from cgddi.plan.sheets import load_sheets

    name, chosen = Path(args.output).stem, read_map(args.map)
    if Path(args.output).suffix != ".tar" or (wrong := fault(name, COHORT)):
        raise UserError(f"--output {args.output}: name a .tar; its name {wrong or 'is that of the set'}.")
    photos = {photo.image_id: photo for photo in load_sheets(args.sheet, args.diseases).photos}
    concepts, problems = read_diseases(args.diseases)
    refuse(problems)
    named = {slugify(raw): c for raw, c in concepts.items()} | {c.slug: c for c in concepts.values()} | concepts
    named |= {concept.name: concept for concept in concepts.values()}
    if bad := [pair for pair in args.learnt_from if "=" not in pair]:
        raise UserError(f"--learnt-from {bad[0]}: write GENERATOR=PHOTOS, e.g. '*=cohort:ddi'.")
    said = chosen.learnt_from | dict(pair.split("=", 1) for pair in args.learnt_from)
    reader = Reader(chosen, photos, named, args.prefix, name)
    spec = {"stage": "ingest", "map": chosen.model_dump(mode="json"), "learnt_from": said, "size": args.size}
    spec |= {"sheet": file_sha256(args.sheet), "prefix": args.prefix}
    with ArchiveWriter(args.output, spec) as archive:
        generators = _write(archive, items(args.origin, chosen), reader, args, said)
        archive.facts = {
            "generators": {name: ids for name, ids in generators.items() if ids is not None},
            "unknown_generators": sorted(name for name, ids in generators.items() if ids is None),
            "diseases_left_out": dict(sorted(reader.strange.items())),
        }
        lines = summary(archive, reader)
    config = f"synthetic: {{{name}: {{archive: {args.output}}}}}"
    print("\n".join([*lines, f"{args.output}: {len(archive)} images; in the config: {config}"]))
    return 0


def _write(archive: ArchiveWriter, source: Iterator[Item], reader: Reader, args, said) -> dict[str, list[str] | None]:
    generators: dict[str, list[str] | None] = {}
    with ThreadPoolExecutor(max(1, args.threads)) as pool, tqdm(desc="ingest", unit="image", mininterval=2) as bar:
        while batch := list(itertools.islice(source, BATCH)):
            rows = [reader.row(item) for item in batch]
            reader.check()
            new = {row["generator"] for row in rows if row and row["generator"]} - generators.keys()
            generators |= lineage_of(sorted(new), said, reader)
            wanted = [(item, row) for item, row in zip(batch, rows, strict=True) if row]
            for (item, row), png in zip(wanted, pool.map(lambda w: png_of(w[0].image, args.size), wanted), strict=True):
                if png is None:
                    archive.skip(item.path, "is no image that can be read")
                    continue
                if row["generator"] and generators[row["generator"]] is None:
                    row["unknown"] = sorted({*row["unknown"], "generator"})
                reader.unknown.update(row["unknown"])
                archive.add(row.pop("key"), {"png": png}, row)
            bar.update(len(batch))
    return generators


def summary(archive: ArchiveWriter, reader: Reader) -> list[str]:
    """What a person must know of an archive just written.

    Raises:
        UserError: nothing is left, or no photo it names stands in the image sheet.
    """
    lines = [f"{count} {what}" for what, count in reader.counts.items() if count]
    if reader.strange:
        names = ", ".join(sorted(reader.strange)[:8])
        lines.append(f"{sum(reader.strange.values())} left out: not in the disease sheet are {names}")
    if archive.skipped:
        lines.append(f"{len(archive.skipped)} left out that cannot be read, e.g. {archive.skipped[0]['id']}")
    if not len(archive):
        raise UserError("\n".join(["no image is left to write.", *lines]))
    if stray := +reader.stray:
        first = next(iter(stray))
        if not reader.known:
            raise UserError(
                f"none of the photos that the images descend from stands in the image sheet, e.g. {first}. Give the sheet that has "
                "them (--sheet), their --prefix there, or correct the map."
            )
        lines.append(
            f"{len(stray)} photos are not in the image sheet, e.g. {first}: what descends from them is left out"
        )
    ways = sorted(reader.unknown.items())
    return lines + [f"{count} of unknown {way}, which counts as a leak unless waived" for way, count in ways]
