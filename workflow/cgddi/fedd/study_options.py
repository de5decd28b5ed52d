"""Options of the commands that train a network of the study."""

from __future__ import annotations

import argparse

from cgddi.job.command import stage_parser


def study_parser(job: str, description: str | None, features: bool = True) -> argparse.ArgumentParser:
    """The parser of `cgddi fedd JOB`.

    Args:
        job: the command's name. description: what it does.
        features: whether it learns from stored features, not from the photos themselves.
    """
    parser = stage_parser(f"fedd {job}", description)
    if features:
        parser.add_argument(
            "--features", nargs="+", required=True, help="feature files (.safetensors) of the study's photos"
        )
    parser.add_argument("--output-dir", required=True, help="folder to write to")
    parser.add_argument("--metrics", help="log of what the job used (JSON lines)")
    return parser
