"""`cgddi fetch`: download every model the config names, and note the commit of each in models.lock.yaml.

    cgddi fetch --configfile config/config.yaml
    cgddi fetch --dry-run           # only say what is needed and how large it is

Run it where the hub can be reached (a cluster's login node) with the HF_HOME of the jobs; the jobs then need no network. Weights
are fetched as safetensors only. What is there is not fetched again, and a stopped download goes on. A commit that is noted stays;
`--update` follows the hub again, and makes every job of that model run again.
"""

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

from cgddi.core.archive import write_atomic
from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.core.weight_files import variant_of
from cgddi.plan.config import config_option, load_config
from cgddi.plan.intact import file_fault
from cgddi.plan.models import LOCK, HubModel, is_hub, named_models, read_lock

TEXTS = (".json", ".txt", ".model", ".jinja")
"""Files of settings and vocabularies."""


def repository(model: HubModel) -> tuple[str, str | None]:
    """(hub id, revision) of a model; the library's own table tells where its backbones lie.

    Raises:
        UserError: the backbone is unknown, or the library is not installed.
    """
    library, _, name = model.name.partition(":")
    if not name:
        source, _, revision = model.name.partition("@")
        return source, revision or None
    try:
        if library == "smp":
            from segmentation_models_pytorch.encoders import encoders

            place = encoders[name]["pretrained_settings"]["imagenet"]
            return place["repo_id"], place["revision"]
        from timm.models import get_pretrained_cfg

        return get_pretrained_cfg(name).hf_hub_id.partition("@")[0], None
    except ImportError as error:
        raise UserError(f"{model.key}: {error}. Run `cgddi fetch` in the environment of the jobs.") from error
    except (AttributeError, KeyError, RuntimeError) as error:
        raise UserError(f"{model.key}: no pretrained weights of {name!r} are known. Correct the name.") from error


def chosen_files(model: HubModel, names: Iterable[str]) -> list[str]:
    """The files of a repository that jobs read.

    Returns:
        Settings, vocabularies and safetensors weights of the variant asked for, or the plain ones of a part that has no such.

    Raises:
        UserError: it has no safetensors weights.
    """
    if model.files:
        names = sorted(names)
        if absent := sorted({*model.files} - {*names}):
            raise UserError(
                f"{model.key}: {model.name} has no {absent[0]}, but {', '.join(names[:8])}. Correct the file's name."
            )
        return sorted(model.files)
    if model.kind in ("timm", "smp"):
        folders = ("",)
    else:
        folders = {"text encoder": ("tokenizer", "text_encoder"), "transformers": ("",)}.get(model.kind)
    found = []
    weights: dict[tuple[str, str], dict[str, list[str]]] = {}
    for name in sorted(names):
        folder, _, file = name.rpartition("/")
        if folder == "safety_checker" or (folders is not None and folder not in folders):
            continue
        if file.endswith(".safetensors") or ".safetensors.index" in file:
            if model.kind == "pipeline" and not folder:
                continue  # all weights in one file, for other programs
            stem, variant = variant_of(file)
            weights.setdefault((folder, stem), {}).setdefault(variant, []).append(name)
        elif file.endswith(TEXTS):
            found.append(name)
    for variants in weights.values():
        found += variants.get(model.variant or "", []) or variants.get("", [])
    if not any(name.endswith(".safetensors") for name in found):
        raise UserError(f"{model.key}: {model.name} has no safetensors weights. Name a model that has.")
    return sorted(found)


def fetch(model: HubModel, commit: str | None, dry_run: bool = False) -> tuple[str, int, int]:
    """Download one model.

    Args:
        commit: its commit, where one is noted.

    Returns:
        Its commit, the size of its files in bytes, and how many bytes had to be fetched.

    Raises:
        UserError: the hub does not give it, or the disk is too small.
    """
    from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache

    source, revision = repository(model)
    try:
        info = HfApi().model_info(source, revision=commit or revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings}
        names = chosen_files(model, sizes)
        absent = [n for n in names if not isinstance(try_to_load_from_cache(source, n, revision=info.sha), str)]
        needed = sum(sizes[name] for name in absent)
        place = Path(constants.HF_HUB_CACHE)
        free = shutil.disk_usage(next(p for p in (place, *place.parents) if p.exists())).free
        if needed > free and not dry_run:
            raise UserError(
                f"{model.name} needs {size(needed)} in {place}, which has {size(free)} left. Make room, or set HF_HOME to a "
                "folder on a larger disk (for the jobs too)."
            )
        if not dry_run:
            folder = snapshot_download(source, revision=commit or revision, allow_patterns=names)
            if wrong := [f"{name} {fault}" for name in names if folder and (fault := file_fault(Path(folder, name)))]:
                raise UserError(f"{model.name}: {'; '.join(wrong[:5])}. Delete {folder} and run the command again.")
        return info.sha, sum(sizes[name] for name in names), needed
    except UserError:
        raise
    except Exception as error:  # the hub client raises some ten kinds
        raise UserError(_why(source, revision, error)) from error


def _why(source: str, revision: str | None, error: Exception) -> str:
    name = type(error).__name__
    what = f"{source}{f' at {revision}' if revision else ''}"
    if name == "GatedRepoError":
        return f"{what}: access must be granted first. Ask for it on the model's page, then `hf auth login`."
    if name == "RevisionNotFoundError":
        return f"{what}: the hub has no such revision. Correct it in the config."
    if name == "RepositoryNotFoundError":
        return f"{what}: the hub has no such model, or only for those who log in (`hf auth login`). Correct the id."
    first = (str(error).strip().splitlines() or [name])[0][:200]
    return f"{what}: the hub did not give it ({name}: {first}). Run the command again: what came is kept."


def size(count: float) -> str:
    """Bytes for a reader."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def write_lock(lock: dict[str, str], path: Path = LOCK) -> None:
    """Write the lock file."""
    head = (
        "# Written by `cgddi fetch`: the commit of each model on the hub. Keep it with your config; jobs use these.\n"
    )
    write_atomic(path, head + yaml.safe_dump(dict(sorted(lock.items())), width=1000))


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi fetch`."""
    parser = command_parser("fetch", __doc__)
    config_option(parser)
    parser.add_argument("--dry-run", "-n", action="store_true", help="fetch nothing, say what is needed")
    parser.add_argument("--update", action="store_true", help="take the newest commits; their jobs run again")
    args = parser.parse_args(argv)
    config, lock, failed, total = load_config(*args.configfile), read_lock(), [], 0
    models: dict[str, list[HubModel]] = {}
    for model in named_models(config):
        models.setdefault(model.name, []).append(model)
    for part in type(config.models).model_fields:
        if not is_hub(source := getattr(config.models, part).source):
            print(f"models.{part}: {source} is on this disk")
    for name, uses in models.items():
        for model in uses:
            try:
                commit, whole, needed = fetch(model, None if args.update else lock.get(name), args.dry_run)
            except UserError as error:
                failed.append(str(error))
                continue
            total += needed
            done = "needed" if args.dry_run else "fetched"
            print(f"{name} ({model.key}): {size(whole)}, {size(needed)} {done}, commit {commit[:12]}", flush=True)
            if not args.dry_run and not name.endswith(commit):
                lock[name] = commit
                write_lock(lock)
    print(
        f"{size(total)} {'to fetch' if args.dry_run else 'fetched'}",
        *([] if args.dry_run else [f"; {LOCK} is written"]),
    )
    for line in dict.fromkeys(failed):  # a model of several uses fails each time in the same words
        print(f"cgddi fetch: {line}", file=sys.stderr)
    return 2 if failed else 0
