"""What the stage commands share: the `--spec` and `--threads` options."""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from cgddi.job.spec import Spec, read_spec


class StageParser(argparse.ArgumentParser):
    """A parser that takes the files a job reads from its spec, but for those that the command line names: a job may read
    thousands, more than a command line holds."""

    @cache  # noqa: B019 (a parser lives as long as its command)
    def spec(self, path: str) -> Spec:
        """The spec of a path, read once."""
        return read_spec(path)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None):
        """As argparse does, with the spec's inputs in the stead of options not given."""
        args = list(sys.argv[1:] if args is None else args)
        path = next((b for a, b in zip(args, args[1:], strict=False) if a == "--spec"), None)
        if path is not None:
            for name, files in self.spec(path).inputs.items():
                option = f"--{name}"
                if option in self._option_string_actions and option not in args:
                    args += [option, *([files] if isinstance(files, str) else files)]
        return super().parse_known_args(args, namespace)


def stage_parser(name: str, description: str | None, required: bool = True) -> argparse.ArgumentParser:
    """An argument parser with the options every stage has.

    Args:
        required: whether it takes no step without a spec; False where files named by hand do as well.
    """
    raw = argparse.RawDescriptionHelpFormatter
    parser = StageParser(prog=f"cgddi {name}", description=description, formatter_class=raw)
    parser.add_argument(
        "--spec",
        type=parser.spec,
        required=required,
        metavar="FILE",
        help="the job's spec: the file the workflow wrote below <results>/.plan, or the record (.json) beside an earlier result. "
        "Files named in it need not be given as options",
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="CPU threads to use (default: all cores)")
    return parser


def state_option(parser: argparse.ArgumentParser) -> None:
    """The option of stages that can go on where a killed job was."""
    parser.add_argument(
        "--state", type=Path, help="folder of checkpoints, kept apart from results and cleared on success"
    )
