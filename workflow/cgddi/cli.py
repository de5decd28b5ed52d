"""The `cgddi` command: one small command per stage, imported only when called."""

import ast
import errno
import importlib
import os
import signal
import sys
from difflib import get_close_matches
from pathlib import Path

import cgddi
from cgddi.core.errors import UserError

ASKED = {
    "init": ("cgddi.ingest.init", "write a folder for a run of your own: a short config and an example table"),
    "ingest": (
        "cgddi.ingest.command",
        "write an image sheet from DDI, Fitzpatrick17k or a folder of your own; an archive of others' images",
    ),
    "check": ("cgddi.watch.check", "check the software, the config and its sheets, photos and masks, all at once"),
    "config": ("cgddi.plan.configdoc", "what a key of the config means, its default and what it takes"),
    "fetch": ("cgddi.watch.fetch", "download the models the config names, and note the commit of each"),
    "status": ("cgddi.watch.status", "show per concept what is done, stale, running, failed or missing, and why"),
    "cost": ("cgddi.watch.cost", "predict the GPU hours of what is left from the rates that finished jobs recorded"),
    "why": ("cgddi.watch.why", "say what changed since a result was made, so that it would be made again"),
    "repair": (
        "cgddi.watch.repair",
        "after a crash or a copy: end orphaned jobs, unlock, check all results and let Snakemake know of them",
    ),
    "masks-export": ("cgddi.stages.masks.export_command", "write masks at photo size as png files, to correct by hand"),
    "work": ("cgddi.job.pool", "run jobs of a run inside a SLURM allocation that is held (profiles/allocations)"),
    "lease": ("cgddi.job.lease", "run a command on a GPU of this node that no other run holds"),
}
"""What a person asks: command -> (module with `main(argv)`, what it does)."""

STAGES = {
    "split": ("cgddi.plan.splits", "write which photos of a cohort a split trains on and tests"),
    "review": ("cgddi.stages.canvases.review", "write the page on which a person keeps or discards healthy images"),
    "fedd": ("cgddi.fedd.command", "masks and malignancy from diffusion features: `cgddi fedd --help`"),
    **{
        path.parent.name: (f"cgddi.stages.{path.parent.name}.command", "")
        for path in sorted(Path(__file__).parent.glob("stages/*/command.py"))
    },
}
"""What a job of the workflow runs; by hand, each takes the spec beside an earlier result. A stage's text is that of its module."""

TOY = {
    "toy-world": ("cgddi.toy.world", "write the procedural toy world in DDI's format"),
    "toy-claim": ("cgddi.toy.claim", "test on several toy worlds whether synthetic images make classifiers fairer"),
    "toy-model": ("cgddi.toy.pretrain", "rebuild the toy world's base model"),
}

COMMANDS = {**ASKED, **STAGES, **TOY}


def usage() -> str:
    """Text of `cgddi --help`."""
    width = max(map(len, COMMANDS))
    lines = ["usage: cgddi COMMAND [options]   (`cgddi COMMAND --help` explains one; `cgddi --version`)"]
    for title, commands in (("you ask", ASKED), ("stages, which the workflow runs", STAGES), ("the toy world", TOY)):
        lines += [
            "",
            f"{title}:",
            *(f"  {name:<{width}}  {text or _about(name)}" for name, (_, text) in commands.items()),
        ]
    more = "--gpus N before a command: take N GPUs of this node that no other run holds, and let it see only these (see `lease`)"
    return "\n".join([*lines, "", more])


def _about(stage: str) -> str:
    """What a stage does: the first words of its command's docstring, without importing it."""
    source = (Path(__file__).parent / "stages" / stage / "command.py").read_text(encoding="utf-8")
    line = (ast.get_docstring(ast.parse(source)) or "").split("\n")[0].split(":")[0].rstrip(".")
    return line[:1].lower() + line[1:]


def _take_gpus(argv: list[str]) -> list[str]:
    """Act on a leading `--gpus N`: hold N devices until this process dies. Must come before torch is imported."""
    if argv[:1] != ["--gpus"]:
        return argv
    if len(argv) < 2 or not argv[1].isdigit():
        raise UserError("--gpus takes the number of GPUs, 0 for none.")
    importlib.import_module("cgddi.job.lease").acquire(int(argv[1]))
    return argv[2:]


def main(argv: list[str] | None = None) -> int:
    """Run one command. A user's mistake ends with its message and status 2, never with a traceback."""
    try:
        status = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `cgddi status | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(argv: list[str]) -> int:
    name = "cgddi"
    try:
        argv = _take_gpus(argv)
        if not argv or argv[0] in ("-h", "--help"):
            print(usage())
            return 0
        if argv[0] == "--version":
            print(f"cgddi {cgddi.__version__}")
            return 0
        if argv[0] not in COMMANDS:
            close = get_close_matches(argv[0], COMMANDS, n=1)
            raise UserError(
                f"no command {argv[0]!r}. " + (f"Did you mean {close[0]}?" if close else "`cgddi --help` lists them.")
            )
        name = f"cgddi {argv[0]}"
        return importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:]) or 0
    except UserError as error:
        _tell(f"{name}: {error}")
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f" (writing {error.filename})" if error.filename else ""
        _tell(
            f"{name}: the disk is full, or your quota on it{place}. Make room and run the same command again; "
            "nothing half-written was left."
        )
        return 2


def _tell(message: str) -> None:
    """Say it on stderr, on a line of its own also where a progress bar is under way: whoever reads a log looks for that line."""
    if bars := sys.modules.get("tqdm"):
        bars.tqdm.write(message, file=sys.stderr)
    else:
        print(message, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
