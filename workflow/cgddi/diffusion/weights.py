"""Weights on disk: safetensors only, written deterministically (sorted header) and atomically. Pickle is never read."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from cgddi.artefacts import write_atomic
from cgddi.errors import UserError

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
        tensor = tensors[name].detach().to("cpu").contiguous()
        if tensor.numel():
            yield tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


def to_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The safetensors bytes of some tensors; equal content gives equal bytes.

    Args:
        tensors: name -> tensor of one of `DTYPES`, on any device.
        metadata: text facts for the header; "format": "pt" is added, which transformers and diffusers look for.
    """
    return b"".join(_pieces(tensors, metadata))


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as a safetensors file that is either absent or whole (see `to_bytes`)."""
    write_atomic(path, _pieces(tensors, metadata))


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
    except SafetensorError as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}). Delete it and run the workflow again."
        ) from error
