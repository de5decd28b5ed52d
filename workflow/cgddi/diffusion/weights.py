"""Weights on disk: safetensors only, written deterministically and atomically; where a base model lies, and what its content is.

Of a pickle plain tensors alone are read (`read_checkpoint`).
"""

import hashlib
import json
import os
import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from cgddi.core.archive import canonical, known_sha256, sha256, write_atomic
from cgddi.core.errors import UserError
from cgddi.core.weight_files import from_hub, variant_of

DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.uint8: "U8", torch.bool: "BOOL"},
}
"""Tensor types the engine stores, by their safetensors name."""


def _pieces(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> Iterator[bytes]:
    """The bytes of a safetensors file, piece by piece: the header, then each tensor's data in the order of the names.

    The library's own writer orders the metadata at random; here names and metadata are sorted, so equal content gives equal
    bytes. Layout: 8-byte little-endian header length, JSON header padded to 8 bytes, raw little-endian data
    (safetensors README, "Format").
    """
    header: dict[str, object] = {"__metadata__": dict(sorted({"format": "pt", **(metadata or {})}.items()))}
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text
    for name in sorted(tensors):
        yield _content(tensors[name])


def _content(tensor: torch.Tensor) -> bytes:
    tensor = tensor.detach().to("cpu").contiguous()
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def to_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The safetensors bytes of some tensors; equal content gives equal bytes.

    Args:
        tensors: name -> tensor of one of `DTYPES`, on any device.
        metadata: text facts for the header; "format": "pt" is added, which transformers and diffusers look for.
    """
    return b"".join(_pieces(tensors, metadata))


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None, alone: bool = True
) -> None:
    """Write tensors as a safetensors file that is either absent or whole (see `to_bytes`; alone: see `temporary_beside`)."""
    write_atomic(path, _pieces(tensors, metadata), alone)


def read_tensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors (on the CPU) and metadata of a safetensors file.

    Raises:
        UserError: the file is missing, damaged, or a pickle (`.bin`, `.pt`, `.ckpt`), which can run code when loaded.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise UserError(
            f"{path}: only .safetensors is read, since a pickle can run code when loaded. Convert it once on a machine "
            "you can afford to lose (torch.load, then safetensors.torch.save_file) and name the new file."
        )
    try:
        with safe_open(path, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}, dict(handle.metadata() or {})  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Run the stage that makes it.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). Look at its permissions.") from error
    except SafetensorError as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}). Delete it and run the workflow again."
        ) from error


def stored_tensors(folder: Path, names: Sequence[str], variant: str | None = None) -> dict[str, torch.Tensor]:
    """Tensors of a model's part as its files hold them, in one file or in several; those that no file has are left out.

    Args:
        folder: the part's, in diffusers layout.
    """
    wanted, found = set(names), {}
    for path in sorted(folder.glob("*.safetensors")):
        if variant_of(path.name)[1] == (variant or ""):
            with safe_open(path, framework="pt") as handle:
                found |= {name: handle.get_tensor(name) for name in wanted & set(handle.keys())}
    return found


def write_checksummed(path: str | Path, tensors: Mapping[str, torch.Tensor], facts: str, alone: bool = True) -> None:
    """Write tensors and a text with a checksum over both, for `read_checksummed`."""
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    write_tensors(path, tensors, {"facts": facts, "sha256": _checksum(tensors, facts)}, alone)


def read_checksummed(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors and text of a file of `write_checksummed`, bit for bit as they were written.

    Raises:
        UserError: it is missing, cut, changed, or a file without a checksum.
    """
    tensors, metadata = read_tensors(path)
    facts = metadata.get("facts", "")
    if metadata.get("sha256") != _checksum(tensors, facts):
        raise UserError(f"{path}: its content does not match its checksum. Delete it and run the workflow again.")
    return tensors, facts


def _checksum(tensors: Mapping[str, torch.Tensor], facts: str) -> str:
    """SHA-256 over a text and the names, types, shapes and bytes of tensors."""
    found = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        found.update(f"\0{name}\0{tensors[name].dtype}\0{list(tensors[name].shape)}\0".encode())
        found.update(_content(tensors[name]))
    return found.hexdigest()


COMPONENTS = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "transformer", "unet", "vae")
"""Parts of a Stable Diffusion folder the engine loads; the safety checker and feature extractor are not among them."""

BLOB = re.compile(r"[0-9a-f]{64}")


def resolve(model: Mapping[str, Any]) -> Path:
    """The folder of a base model in diffusers layout, downloaded first when it is a hub id.

    Args:
        model: {"source": folder or hub id, "revision": commit or tag or None, "variant": e.g. "fp16" or None}.

    Raises:
        UserError: the folder is not a diffusers model, or the hub could not give it.
    """
    source = str(model["source"])
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if source.startswith((".", "/", "~")) or source.count("/") != 1:
            raise UserError(f"model source {source!r}: no such folder. Name a diffusers folder or a hub id owner/name.")
        folder = _download(source, model.get("revision"), model.get("variant"))
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder}: no model_index.json, so not a diffusers model folder. Name the folder that holds it."
        )
    return folder


def _download(source: str, revision: str | None, variant: str | None) -> Path:
    from huggingface_hub import snapshot_download

    weights = f"*.{variant}.safetensors" if variant else "*.safetensors"
    patterns = ["model_index.json", *(f"{part}/{end}" for part in COMPONENTS for end in ("*.json", "*.txt", weights))]
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub client raises some ten kinds; all mean that the model is not to be had
        raise UserError(
            f"model {source!r} (revision {revision}): the hub did not give it ({error}). "
            "Check the id and revision, log in with `hf auth login`, or download it and name the folder."
        ) from error


def given_files(adapter: Mapping[str, Any]) -> tuple[Path | None, Path]:
    """The files of a given adapter, fetched first where it is on the hub.

    Args:
        adapter: {"weights", "embedding"}: paths, or names in "model" {"source": folder or hub id, "revision"}; without a learnt
            token `embedding` is None.

    Returns:
        The token's file, or None, and the adapter's.

    Raises:
        UserError: the hub does not give one of them.
    """

    def place(name: str) -> Path:
        model = adapter.get("model")
        if model is None or Path(name).is_file():
            return Path(name)
        if Path(model["source"]).is_dir():
            return Path(model["source"], name)
        return from_hub(model["source"], name, model.get("revision"), f"adapter {model['source']}")

    return place(adapter["embedding"]) if adapter["embedding"] else None, place(adapter["weights"])


def model_index(folder: Path) -> dict[str, Any]:
    """The parsed `model_index.json` of a model folder."""
    try:
        return json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{folder}/model_index.json: not JSON ({error}). Fetch the model again.") from error


def component_digests(folder: Path, variant: str | None = None) -> dict[str, str]:
    """Content hash of each component's files; equal models at different places hash equally.

    Hub snapshots link to blobs named by their SHA-256, which is taken as it is; others were read by the plan, or are read now.

    Args:
        variant: the weights variant in use; other variants' files are left out.
    """
    digests = {}
    for part in COMPONENTS:
        facts = {}
        for path in sorted((folder / part).glob("*")):
            if path.suffix == ".safetensors" and variant_of(path.name)[1] != (variant or ""):
                continue
            if path.is_file() and path.suffix in (".json", ".txt", ".safetensors"):
                facts[path.name] = _digest_of(path)
        if facts:
            digests[part] = sha256(canonical(facts))
    return digests


def _digest_of(path: Path) -> str:
    target = os.path.basename(os.path.realpath(path))
    if path.is_symlink() and BLOB.fullmatch(target):
        return target
    return known_sha256(path)


def check_base(path: str | Path, metadata: Mapping[str, str], digest: str | None) -> None:
    """Compare the base model that a token or adapter file names in its header with the one in use.

    Args:
        metadata: its header; a file of others names no base, and is taken as it is.
        digest: `Backbone.digest` of the model in use; None compares nothing.

    Raises:
        UserError: it was trained on another one.
    """
    named = metadata.get("cgddi.base_sha256")
    if digest and named not in (None, canonical(digest)):
        raise UserError(
            f"{path}: trained on another base model (sha256 {named[1:13]}..., this one's is {digest[:12]}...). "
            "Train it again on this one, or name the model it was trained on."
        )


def model_digest(model: Mapping[str, Any]) -> str:
    """The hash of a base model (`Backbone.digest`) without loading it (see `resolve`)."""
    return combined(component_digests(resolve(model), model.get("variant")))


def combined(digests: Mapping[str, str]) -> str:
    """One hash for a whole model from its components' hashes."""
    return hashlib.sha256(canonical(dict(digests)).encode()).hexdigest()


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pt` or `.safetensors` checkpoint; a `.pt` is read by torch's loader of plain tensors, which runs no code.

    Raises:
        UserError: no such file, damaged, or holding anything but a flat set of named tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Download it and give its path.") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: not a plain set of tensors, so it was not loaded ({str(error).splitlines()[0]}). "
            "Give the published file itself, or a .safetensors file; files that would run code when opened are refused."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: damaged ({reason}). Download it again.") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: not a flat set of named tensors. Save the network's state dict alone and name that.")
    return dict(state)
