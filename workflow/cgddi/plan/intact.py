"""Whether a model's files are whole: each is opened, none is read to its end. Light: planning asks too.

A download that was cut short, a web page in the place of a JSON file, a vocabulary that is missing: found here, not on a GPU node.
"""

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cgddi.core.weight_files import variant_of

VERSION = 1
"""Raised when this module finds other faults: what was remembered of a model is then looked at again."""
OPTIONAL = ("safety_checker", "feature_extractor", "requires_safety_checker", "image_encoder")
"""Parts of a pipeline that no job loads."""
LARGEST_HEADER = 100 << 20
"""Bytes: the format's own limit of a header."""


def file_fault(path: str | Path) -> str | None:
    """What is wrong with one file by its kind (.safetensors, .json, .txt and the like); None where it is whole."""
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(512)
        if not head:
            return "is empty"
        if head.startswith(b"version https://git-lfs"):
            return "is a pointer of Git LFS, not the file itself (`git lfs pull`)"
        if head.lstrip()[:15].lower().startswith((b"<!doctype html", b"<html")):
            return "is a web page: the download was refused"
        if path.suffix == ".safetensors":
            return _tensors_fault(path)
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ValueError as error:
        return f"is no JSON ({error})"
    return None


def _tensors_fault(path: Path) -> str | None:
    """What is wrong with a safetensors file: 8 bytes of header length, a JSON header, then exactly the data it speaks of."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            return "is no safetensors file, or was cut short in its header"
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "is no safetensors file: its header cannot be read"
    whole = 8 + length + max(ends, default=0)
    return None if size == whole else f"has {size} bytes instead of {whole}: its download was cut short"


def faults(folder: str | Path, variant: str | None = None, parts: Iterable[str] = ()) -> list[str]:
    """What is wrong with a model's folder, a line each with the file's name; nothing where it is whole.

    Args:
        folder: in the layout of diffusers, transformers or timm.
        variant: of the weights; parts that have none of it are loaded in the plain one.
        parts: folders that it must have, beside those that its model_index.json names.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return [f"{folder} is not there"]
    by_folder: dict[Path, list[Path]] = {}
    found = []
    for path in sorted(folder.rglob("*")):
        below = path.relative_to(folder)
        if any(part.startswith(".") for part in below.parts) or path.suffix == ".md" or path.is_dir():
            continue
        by_folder.setdefault(below.parent, []).append(path)
        if fault := "leads nowhere" if not path.exists() else file_fault(path):
            found.append(f"{below} {fault}")
    wanted = [*parts, *_components(folder / "model_index.json")]
    found += [f"{part} is missing" for part in dict.fromkeys(wanted) if Path(part) not in by_folder]
    for place, paths in by_folder.items():
        found += [f"{place}: {text}" if str(place) != "." else text for text in _part_faults(paths, variant)]
    return found


def _components(index: Path) -> list[str]:
    try:
        entries = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []  # absent, or told above
    return [
        name
        for name, kind in entries.items()
        if isinstance(kind, list) and all(kind) and name not in OPTIONAL and not name.startswith("_")
    ]


def _part_faults(paths: list[Path], variant: str | None) -> list[str]:
    """Files that a part of a model lacks: a tokenizer's vocabulary, a network's weights, some of their pieces."""
    names = {path.name for path in paths}
    weights = [name for name in names if name.endswith(".safetensors")]
    found = []
    if paths[0].parent.name.startswith("tokenizer") or "tokenizer_config.json" in names:
        whole = {"vocab.json", "merges.txt"} <= names or names & {"tokenizer.json", "vocab.txt"}
        if not whole and not any(name.endswith(".model") for name in names):
            found.append("the tokenizer's vocabulary is missing (vocab.json and merges.txt, or tokenizer.json)")
    if paths[0].parent.name == "scheduler" and "scheduler_config.json" not in names:
        found.append("scheduler_config.json is missing")
    if "config.json" in names and "preprocessor_config.json" not in names and "model_index.json" not in names:
        variants = {variant_of(name)[1] for name in weights}
        if not weights:
            found.append("its weights are missing (.safetensors)")
        elif not variants & {variant or "", ""}:
            named = ", ".join(sorted(variants))
            found.append(f"there are weights of variant {named} only, not of {variant or 'the plain one'}")
    for name in sorted(weights):
        if match := re.fullmatch(r"(.*)-\d+-of-(\d+)(\..*)", name):
            stem, count, end = match.groups()
            pieces = [f"{stem}-{k:0{len(count)}d}-of-{count}{end}" for k in range(1, int(count) + 1)]
            found += [f"{piece} is missing" for piece in pieces if piece not in names]
    for path in paths:
        if path.name.endswith(".safetensors.index.json"):
            try:
                pieces = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            found += [f"{piece} is missing" for piece in sorted(pieces - names)]
    return list(dict.fromkeys(found))


# ---- the hub's cache


def hub_home() -> Path:
    """The folder that HF_HOME names, or its default."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{cache}/huggingface").expanduser()


def hub_cache() -> Path:
    """Where downloads of the hub lie."""
    return Path(os.environ.get("HF_HUB_CACHE") or hub_home() / "hub").expanduser()


def snapshot(name: str, commit: str | None) -> Path | None:
    """The folder of a download; None where there is none.

    Args:
        name: hub id, with `@revision` where one is named; or a library's name of a model (`timm:resnet18`), whose commit alone
            tells where it lies.
        commit: where it is known.
    """
    if ":" in name:
        return next(iter(sorted(hub_cache().glob(f"models--*/snapshots/{commit}"))), None) if commit else None
    source, _, revision = name.partition("@")
    place = hub_cache() / f"models--{source.replace('/', '--')}"
    try:
        commit = commit or (place / "refs" / (revision or "main")).read_text().strip()
    except OSError:
        commit = revision
    folder = place / "snapshots" / commit
    return folder if commit and folder.is_dir() else None
