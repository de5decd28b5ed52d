"""Weights on disk: safetensors only, written deterministically (sorted header) and atomically. Pickle is never read."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from cgddi.artefacts import write_atomic
from cgddi.errors import UserError

DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64", torch.uint8: "U8"}
"""Tensor types the engine stores, by their safetensors name."""


def to_bytes(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The safetensors bytes of some tensors.

    The library's own writer orders the metadata at random; here names and metadata are sorted, so equal content gives equal bytes.
    Layout: 8-byte little-endian header length, JSON header padded to 8 bytes, raw little-endian data
    (safetensors README, "Format").

    Args:
        tensors: name -> tensor of one of `DTYPES`, on any device.
        metadata: text facts for the header; "format": "pt" is added, which transformers and diffusers look for.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted({"format": "pt", **(metadata or {})}.items()))}
    parts, offset = [], 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + len(data)],
        }
        parts.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def write_tensors(
    path: str | Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors as a safetensors file that is either absent or whole (see `to_bytes`)."""
    write_atomic(path, to_bytes(tensors, metadata))


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
