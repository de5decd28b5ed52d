"""The claim, tested: do synthetic images make the classifier more accurate and fairer in the toy world?

For every data seed: a toy world of its own (photos to learn from, and 450 balanced test photos), its own generators and
classifiers, by the real workflow. Then the figures of all data seeds are pooled: OUTPUT/claim.csv, claim_paired.csv,
claim_by_seed.csv, claim.md and claim.png. What is there already is not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cgddi.core.archive import write_atomic
from cgddi.core.errors import UserError

SETS = (("ddi", "toy", []), ("test", "toy-test", ["--prefix", "test-", "--append"]))
"""Folder of the world, cohort, and further arguments of `cgddi ingest`."""


def write_data(folder: Path, seed: int, diseases: str, preset: str) -> Path:
    """The world of a data seed and its image sheet, whose path is returned; left alone where the sheet exists."""
    from cgddi.ingest.command import main as ingest
    from cgddi.toy.world import PRESETS, write_world

    sheet = folder / "images.csv"
    if sheet.exists():
        return sheet
    write_world(folder, PRESETS[preset], seed)
    part = folder / "images.part.csv"
    part.unlink(missing_ok=True)
    for name, cohort, further in SETS:
        base = folder / name
        where = ["--metadata", f"{base}/ddi_metadata.csv", "--images", f"{base}/images", "--masks", f"{base}/masks"]
        with contextlib.redirect_stdout(io.StringIO()):
            ingest(["ddi", *where, "--diseases", diseases, "--cohort", cohort, *further, "--output", str(part)])
    os.replace(part, sheet)
    return sheet


def run_seed(seed: int, args: argparse.Namespace) -> Path:
    """All classifiers of one data seed by the workflow; returns the folder of its results."""
    import yaml

    base = yaml.safe_load(Path(args.configfile).read_text(encoding="utf-8"))
    results = args.output / str(seed)
    sheet = write_data(args.data / str(seed), seed, base["diseases"], args.preset)
    override = args.data / f"{seed}.yaml"
    own = {"results": str(results), "images": str(sheet), "seed": seed}
    write_atomic(override, yaml.safe_dump(own, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local-cpu", "--cores", str(args.cores)]
    command += ["--configfile", args.configfile, str(override), "--", f"{results}/fairness/summary.json"]
    if subprocess.run(command).returncode:
        raise UserError(f"data seed {seed}: the workflow failed (its logs: {results}/logs). Fix it and run this again.")
    return results


def pool(folders: dict[str, Path], settings: dict, output: Path) -> None:
    """Read every run below `folders` (data seed -> results) and write the pooled tables and the plot."""
    from cgddi.stages.fairness import pooled
    from cgddi.stages.fairness.predictions import read_run
    from cgddi.stages.fairness.settings import FairnessSettings

    options = FairnessSettings(**settings)
    runs = {
        seed: [read_run(path) for path in sorted(folder.glob("classify/*/*/*/*/predictions.csv"))]
        for seed, folder in folders.items()
    }
    empty = [seed for seed, of_seed in runs.items() if not of_seed]
    if empty:
        raise UserError(f"data seed {empty[0]}: no predictions below {folders[empty[0]]}. Run it first.")
    datasets = pooled.by_dataset(runs, options)
    table = pooled.pooled(datasets, options.confidence)
    tests = pooled.differences(datasets, options.compare, options.confidence)
    write_atomic(output / "claim.csv", table.to_csv(index=False))
    write_atomic(output / "claim_by_seed.csv", datasets.to_csv(index=False))
    write_atomic(output / "claim_paired.csv", tests.to_csv(index=False))
    write_atomic(output / "claim.md", pooled.markdown(table, tests, options.confidence))
    write_atomic(output / "claim.png", pooled.plot(datasets, table))


def main(argv: Sequence[str] | None = None) -> int:
    """Command line of `cgddi toy-claim`; run it in the repository's root."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="cgddi toy-claim", description=__doc__, formatter_class=raw)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="data seeds (default: 1 2 3 4 5)")
    parser.add_argument("--configfile", default="config/toy/config.yaml", help="config that every data seed shares")
    parser.add_argument("--preset", default="demo", choices=["demo", "small"], help="size of each toy world")
    parser.add_argument("--data", type=Path, default=Path("data/claim"), help="folder of the worlds")
    parser.add_argument(
        "--output", type=Path, default=Path("results/claim"), help="folder of the results and the tables"
    )
    parser.add_argument("--cores", default="all", help="cores that the workflow may use")
    parser.add_argument("--tables-only", action="store_true", help="pool what is there, train nothing")
    args = parser.parse_args(argv)
    if len(set(args.seeds)) < 2 or min(args.seeds) < 0:
        raise UserError("--seeds takes two or more different whole numbers, none negative.")
    if not Path(args.configfile).is_file() or not Path("Snakefile").is_file():
        raise UserError(f"{args.configfile} or Snakefile is not here: run this in the repository's root.")
    import yaml

    shared = yaml.safe_load(Path(args.configfile).read_text(encoding="utf-8"))
    folders = {}
    for seed in args.seeds:
        folders[str(seed)] = args.output / str(seed) if args.tables_only else run_seed(seed, args)
    pool(folders, shared.get("fairness", {}), args.output)
    print((args.output / "claim.md").read_text(encoding="utf-8"))
    return 0
