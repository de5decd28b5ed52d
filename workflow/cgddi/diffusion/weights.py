"""Weights on disk: safetensors only, written deterministically (sorted header) and atomically. Pickle is never read."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from cgddi.core.archive import write_atomic
from cgddi.core.errors import UserError

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.uint8: "U8"}
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
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    alone: bool = True,
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


def write_sealed(path: str | Path, tensors: Mapping[str, torch.Tensor], facts: str, alone: bool = True) -> None:
    """Write tensors and a text with a checksum over both, for `read_sealed`."""
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    write_tensors(path, tensors, {"facts": facts, "sha256": _seal(tensors, facts)}, alone)


def read_sealed(path: str | Path) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors and text of a file of `write_sealed`, bit for bit as they were written.

    Raises:
        UserError: it is missing, cut, changed, or a file without a checksum.
    """
    tensors, metadata = read_tensors(path)
    facts = metadata.get("facts", "")
    if metadata.get("sha256") != _seal(tensors, facts):
        raise UserError(f"{path}: its content does not match its checksum. Delete it and run the workflow again.")
    return tensors, facts


def _seal(tensors: Mapping[str, torch.Tensor], facts: str) -> str:
    """SHA-256 over a text and the names, types, shapes and bytes of tensors."""
    found = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        found.update(f"\0{name}\0{tensors[name].dtype}\0{list(tensors[name].shape)}\0".encode())
        found.update(_content(tensors[name]))
    return found.hexdigest()
