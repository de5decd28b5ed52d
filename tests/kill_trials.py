"""Kill every long job at random moments, start it again, and compare what it gives with an undisturbed run.

    python -m tests.kill_trials [--trials 10] [--jobs lora healthy ...] [--seed N]

One line per job: trials; killed; taken up (the kill had met a state, and the next start went on from it); torn (a result whose
record is there and does not fit its files, or a state that cannot be read), lost (a state was there and the job started over),
different (other bytes than an undisturbed run's). Of each job the last three must be zero and `taken up` not; the exit status says
so. Half of the kills are SIGKILL, half SIGTERM. Real processes, forked from this one; random-weight models in miniature.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cgddi.core.archive import file_sha256
from tqdm import tqdm

Argv = Callable[[Path], list[str]]
"""Folder to write to -> a command's arguments."""


def engine_jobs(root: Path) -> dict[str, Argv]:
    """Tokens, adapters and samples."""
    from tests.diffusion import tiny
    from tests.diffusion.conftest import make_world, train

    world = train(make_world(root / "engine"))
    settings = {"embedding": {**tiny.TI, "steps": 12}, "lora": {**tiny.LORA, "steps": 12}}
    settings["semantic"] = {**tiny.SEMANTIC, "repeats": 2, "max_canvases": None}
    inputs = {
        "embedding": ["--photos", world.root / "masks.tar"],
        "lora": ["--photos", world.root / "masks.tar", "--embedding", world.embedding],
        "semantic": ["--embedding", world.embedding, "--lora", world.lora],
    }

    def argv(stage: str) -> Argv:
        spec = root / f"{stage}.json"
        spec.write_text(json.dumps(tiny.spec_for(stage, world.model, world.images, **settings[stage])))
        canvases = [] if stage == "embedding" else ["--canvases", world.root / "canvases.tar"]

        def words(out: Path) -> list[str]:
            where = (
                ["--output", out / "x.tar"] if stage == "semantic" else ["--output-dir", out, "--state", f"{out}.state"]
            )
            return [stage, "--spec", spec, *inputs[stage], *canvases, *where, "--cache", f"{out}.cache"]

        return words

    return {stage: argv(stage) for stage in settings}


def healthy_job(root: Path) -> Argv:
    """Inpainting of six photos in groups of two."""
    from tests.stages.healthy.tiny import stable_diffusion
    from tests.stages.lesion_mapped.world import photo, spec_of, write_samples

    photos = write_samples(root / "photos.tar", [(f"p{n}", *photo(n, 64, lesion=0.04), {}) for n in range(6)])
    model = {"source": str(stable_diffusion(root / "sd", 9)), "revision": None, "variant": None}
    settings = {"steps": 3, "batch_size": 2, "precision": "fp32"}
    images = [f"p{n}" for n in range(6)]
    spec = spec_of("healthy", settings, cohort="c", batch="b.000", images=images, model=model)
    (root / "healthy.json").write_text(json.dumps(spec))
    words = ["healthy", "--spec", root / "healthy.json", "--photos", photos]
    return lambda out: [*words, "--output", out / "x.tar", "--cache", f"{out}.cache"]


def classify_job(root: Path) -> Argv:
    """A classifier with an early choice of the epoch."""
    from tests.stages.classify.test_runs import NET, findings
    from tests.stages.index.world import make_world, spec_file

    index = make_world(root / "index", per_cell=6).write_index()
    options = {"image_size": 32, "precision": "fp32", "min_concept_images": 1, "images_per_epoch": 96}
    options |= {"training": {**NET, "epochs": 3}}
    facts = {"seed": 7, "split": "toy", "regime": "synthetic", "method": "baseline", "run_seed": 1}
    spec = spec_file(root / "classify", stage="classify", **facts, settings=options)
    words = ["classify", "--spec", spec, "--index", index, "--leakage", findings(index, root / "leakage.json")]
    return lambda out: [*words, "--output-dir", out, "--state", f"{out}.state"]


def fedd_jobs(root: Path) -> dict[str, Argv]:
    """The study's networks."""
    from tests.fedd.photos import write_study
    from tests.fedd.study import make_study

    study = make_study(root / "study", 2.0, {"train": 4, "validation": 2, "test": 2})
    segmenter = {"steps": 240, "check_every": 60, "ensemble": 2, "batch_pixels": 64, "patience": 30}
    baseline = {"weights": "random", "epochs": 3, "patience": 3, "batch_size": 6, "learning_rate": 3e-3}
    pictures = {"subset": "5", "run_seed": 0, "size": 32, "crop": "resize", "seed": 1, "id_map": None}
    specs = {
        "segmenter": {**study, "variant": "reweight", "settings": segmenter},
        "probe": {**study, "settings": {"epochs": 400, "patience": 400}, "seeds": [0, 1]},
        "baseline": {
            "task": "segmentation",
            "network": "mobilenet_v2",
            **pictures,
            **write_study(root / "pictures"),
            "settings": baseline,
        },
    }

    def argv(stage: str) -> Argv:
        path = root / f"{stage}.json"
        path.write_text(json.dumps(specs[stage]))
        features = [] if stage == "baseline" else ["--features", root / "study/features.safetensors"]
        return lambda out: ["fedd", stage, "--spec", path, *features, "--output-dir", out, "--state", f"{out}.state"]

    return {stage: argv(stage) for stage in specs}


def own_tqdm_lock() -> None:
    """In a forked process that will be killed: tqdm's lock is shared between processes, and one that dies with it in hand keeps
    all others waiting for ever."""
    tqdm.set_lock(threading.RLock())


def start(argv: list[str], report: Path) -> int:
    """Fork a process that runs a command; what it took up goes to `report` when it ends by itself."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        own_tqdm_lock()
        quiet = os.open(os.devnull, os.O_WRONLY)
        log = os.open(f"{report}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(quiet, 1)
        os.dup2(log, 2)
        from cgddi.cli import main
        from cgddi.job import checkpoint, store

        checkpoint.SECONDS = 0.1
        seen = Counter()
        load, get = checkpoint.Checkpoint.load, store.MadeStore.get

        def counted_load(self, needed=()):
            found = load(self, needed)
            seen["states"] += found is not None
            return found

        def counted_get(self, item=None):
            found = get(self, item)
            seen["items"] += found is not None
            return found

        checkpoint.Checkpoint.load, store.MadeStore.get = counted_load, counted_get
        status = main(list(map(str, [*argv, "--threads", "1"])))
        report.write_text(json.dumps(seen))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    finally:
        os._exit(status)


def files(out: Path) -> dict[str, str]:
    """Name -> hash of each file of a result."""
    return {path.name: file_sha256(path) for path in sorted(out.glob("*")) if path.is_file()}


def torn(out: Path) -> bool:
    """Whether a record is there that does not fit its files."""
    for record in out.glob("*.json"):
        try:
            named = json.loads(record.read_text())["outputs"]
        except (ValueError, KeyError):
            return True
        for name, about in named.items():
            file = out / (f"{record.stem}{name}" if name.startswith(".") else name)
            if not file.exists() or file_sha256(file) != about["sha256"]:
                return True
    return False


def left(out: Path) -> tuple[list[Path], list[Path]]:
    """States and items that lie there."""
    items = [path for path in Path(f"{out}.cache").glob("made/*/*/*") if not path.name.startswith(".")]
    states = Path(f"{out}.state").glob("[!.]*.safetensors")
    return [path for path in states if not path.name.startswith("previous-")], items


def kill(argv: Argv, out: Path, how: signal.Signals, after: float, met: bool) -> bool:
    """Start a job and kill it so many seconds after its start, or after a state or item lies there; whether it had not ended."""
    child, before = start(argv(out), out.with_suffix(".report")), sum(map(len, left(out)))
    status: int | None = None
    while met and status is None and sum(map(len, left(out))) <= before:
        time.sleep(0.002)
        pid, code = os.waitpid(child, os.WNOHANG)
        status = code if pid else None
    if status is None:
        time.sleep(after)
        os.kill(child, how)
        _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 143


def trial(
    argv: Argv, out: Path, how: signal.Signals, moments: list[tuple[float, bool]], whole: dict[str, str]
) -> Counter:
    """Kill a job at some moments, then let it end; what went wrong."""
    found, report = Counter(trials=1), out.with_suffix(".report")
    for after, met in moments:
        found["killed"] += kill(argv, out, how, after, met)
        found["torn"] += torn(out)
    states, items = left(out)
    if (out / "record.json").exists() or (out / "x.json").exists():
        states = items = []  # it had ended before
    _, status = os.waitpid(start(argv(out), report), 0)
    assert status == 0, f"{argv(out)}: exit status {status}: {Path(f'{report}.log').read_text()[-2000:]}"
    seen = json.loads(report.read_text())
    found["torn"] += "is damaged" in Path(f"{report}.log").read_text()
    found["taken up"] += bool(states and seen.get("states")) or bool(items and seen.get("items"))
    # Whoever finds the finished work in the store needs no state of it.
    found["lost"] += bool(states and not (seen.get("states") or seen.get("items"))) or seen.get("items", 0) < len(items)
    found["different"] += files(out) != whole
    if found["torn"] + found["lost"] + found["different"]:
        print(
            f"{out.name}: {dict(found)}; moments {moments}; states {states}, items {items}; taken up: {seen}",
            file=sys.stderr,
        )
    return found


def main() -> int:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--jobs", nargs="*")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3)))
    args = parser.parse_args()
    draw, bad = random.Random(args.seed), 0
    root = Path(tempfile.mkdtemp(prefix="kill-trials-"))
    import torch

    torch.set_num_threads(1)
    jobs = {**engine_jobs(root), "healthy": healthy_job(root), "classify": classify_job(root), **fedd_jobs(root)}
    print(f"seed {args.seed}\n{'job':10} trials killed taken up  torn  lost different")
    for name in args.jobs or jobs:
        began, whole = time.monotonic(), root / f"{name}-whole"
        _, status = os.waitpid(start(jobs[name](whole), root / f"{name}.report"), 0)
        assert status == 0, Path(f"{root / name}.report.log").read_text()[-2000:]
        usual, total, expected = time.monotonic() - began, Counter(), files(whole)
        for number in range(args.trials):
            how = signal.SIGKILL if number % 2 else signal.SIGTERM
            # Half of the kills are at any moment, half soon after something lies there to go on from.
            met = number % 4 < 2
            moments = [
                (draw.uniform(*((0, 0.1) if met else (0.3, 1.0))) * usual, met) for _ in range(1 + number % 3 // 2)
            ]
            out = root / f"{name}-{number}"
            total += trial(jobs[name], out, how, moments, expected)
            for path in (out, Path(f"{out}.state"), Path(f"{out}.cache")):
                shutil.rmtree(path, ignore_errors=True)
        bad += total["torn"] + total["lost"] + total["different"] + (not total["taken up"])
        keys = ("trials", "killed", "taken up", "torn", "lost", "different")
        print(f"{name:10} " + " ".join(f"{total[key]:>{max(5, len(key))}}" for key in keys), flush=True)
    shutil.rmtree(root)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
