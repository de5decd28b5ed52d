"""The claim, tested: do synthetic images make the classifier more accurate and fairer in the toy world?

For every data seed: a toy world of its own (photos to learn from, and 450 balanced test photos), its own generators and
classifiers, by the real workflow, controls among them (config/toy/claim.yaml). Then the figures of all data seeds are pooled:
OUTPUT/claim.csv, claim_paired.csv, claim_by_seed.csv, claim.md and claim.png. What is there already is not made again, also after
a kill: the same command goes on.
"""

import argparse
import contextlib
import fcntl
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cgddi.core.archive import write_atomic
from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.core.labels import labels_of

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


def run_seed(seed: int, diseases: str, args: argparse.Namespace, lock: int) -> Path:
    """All classifiers of one data seed by the workflow, which keeps the lock open too; returns the folder of its results."""
    import yaml

    results = args.output / str(seed)
    sheet = write_data(args.data / str(seed), seed, diseases, args.preset)
    override = args.data / f"{seed}.yaml"
    own = {"results": str(results), "images": str(sheet), "seed": seed}
    write_atomic(override, yaml.safe_dump(own, sort_keys=False))
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/local-cpu", "--cores", str(args.cores)]
    # a killed Snakemake leaves its own lock behind; ours falls with its last holder
    command += ["--nolock", *(["-n"] if args.dry_run else []), "--configfile", *args.configfile, str(override)]
    command += ["--", f"{results}/fairness/summary.json"]
    if subprocess.run(command, pass_fds=[lock]).returncode:
        raise UserError(f"data seed {seed}: the workflow failed (its logs: {results}/logs). Fix it and run this again.")
    return results


def pool(folders: dict[str, Path], settings: dict, output: Path) -> None:
    """Read every run below `folders` (data seed -> results) and write the pooled tables and the plot."""
    from cgddi.stages.fairness import pooled
    from cgddi.stages.fairness.predictions import read_run
    from cgddi.stages.fairness.settings import FairnessSettings

    options, runs = FairnessSettings(**settings), {}
    for seed, folder in folders.items():
        paths, summary = sorted(folder.glob("classify/*/*/*/*/predictions.csv")), folder / "fairness/summary.json"
        if not (paths and summary.is_file()):
            raise UserError(f"data seed {seed}: no predictions and tables below {folder}. Run it first.")
        labels = labels_of(json.loads(summary.read_text(encoding="ascii"))["spec"])
        runs[seed] = [read_run(path, labels) for path in paths]
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
    parser = command_parser("toy-claim", __doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="data seeds (default: 1 2 3 4 5)")
    shared = ["config/toy/config.yaml", "config/toy/claim.yaml"]
    parser.add_argument("--configfile", nargs="+", default=shared, help="config files that all data seeds share")
    parser.add_argument("--preset", default="demo", choices=["demo", "small"], help="size of each toy world")
    parser.add_argument("--data", type=Path, default=Path("data/claim"), help="folder of the worlds")
    parser.add_argument(
        "--output", type=Path, default=Path("results/claim"), help="folder of the results and the tables"
    )
    parser.add_argument("--cores", default="all", help="cores that the workflow may use")
    parser.add_argument("--tables-only", action="store_true", help="pool what is there, train nothing")
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="write the worlds and list the jobs, train nothing"
    )
    args = parser.parse_args(argv)
    if len(set(args.seeds)) < 2 or min(args.seeds) < 0:
        raise UserError("--seeds takes two or more different whole numbers, none negative.")
    if not Path("Snakefile").is_file():
        raise UserError("There is no Snakefile here: run this in the repository's root.")
    from cgddi.plan.configfile import read

    shared = read(args.configfile).values
    args.output.mkdir(parents=True, exist_ok=True)
    with open(args.output / ".lock", "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{args.output}: another `cgddi toy-claim` is at work here. Wait for it, or give --output."
            ) from None
        folders = {}
        for seed in args.seeds:
            own = args.output / str(seed)
            folders[str(seed)] = own if args.tables_only else run_seed(seed, shared["diseases"], args, handle.fileno())
        if args.dry_run:
            return 0
        pool(folders, shared.get("fairness", {}), args.output)
    print((args.output / "claim.md").read_text(encoding="utf-8"))
    return 0
