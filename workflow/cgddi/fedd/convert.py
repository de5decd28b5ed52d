"""An original ADM checkpoint as a diffusers folder: `unet` and `scheduler`, weights as safetensors."""

from __future__ import annotations

import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from cgddi.core.archive import file_sha256, temporary_beside, write_record
from cgddi.core.errors import UserError
from cgddi.diffusion.weights import read_tensors
from cgddi.fedd import adm

SHOWN = 6


def read_checkpoint(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pt` or `.safetensors` checkpoint; a `.pt` is read by torch's loader of plain tensors, which runs no code.

    Raises:
        UserError: no such file, damaged, or holding anything but a flat set of named tensors.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Download 256x256_diffusion_uncond.pt and name it.") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: not a plain set of tensors, so it was not loaded ({str(error).splitlines()[0]}). "
            "Give OpenAI's own 256x256_diffusion_uncond.pt, or a .safetensors file."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: damaged ({reason}). Download it again.") from error
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UserError(f"{path}: not a flat set of named tensors. Save the network's state dict alone and name that.")
    return dict(found)


def to_diffusers(checkpoint: Mapping[str, torch.Tensor], config: Mapping[str, object], name: str = "checkpoint"):
    """The checkpoint as a `UNet2DModel` in float32.

    The original's `qkv` rows are head by head, queries, keys and values of one head together (its `QKVAttentionLegacy`): rows
    (heads, 3, head channels, C).

    Args:
        checkpoint: the original's tensors.
        config: from `adm.unet_config`.
        name: of the file, for messages.

    Raises:
        UserError: tensors that are missing, too many or of another shape, or not finite.
    """
    unet = adm.empty_unet(dict(config))
    wanted, names, head = unet.state_dict(), adm.tensor_names(unet), int(config["attention_head_dim"])
    _check(checkpoint, {old: _original_shape(old, new, wanted) for old, new in names.items()}, name)
    converted: dict[str, torch.Tensor] = {}
    for old, new in names.items():
        value = checkpoint[old].detach().to(torch.float32)
        if not torch.isfinite(value).all():
            raise UserError(f"{name}: tensor {old} holds values that are not finite. Download the checkpoint again.")
        if len(new) == 3:
            rows = value.reshape(-1, 3, head, *value.shape[1:])
            parts = [rows[:, n].flatten(0, 1) for n in range(3)]
        else:
            parts = [value]
        for target, part in zip(new, parts, strict=True):
            converted[target] = part.reshape(wanted[target].shape).contiguous()
    unet.load_state_dict(converted, strict=True, assign=True)
    return unet.eval()


def _original_shape(old: str, new: tuple[str, ...], wanted: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
    shape = tuple(wanted[new[0]].shape)
    rows = (shape[0] * len(new), *shape[1:])
    return (*rows, 1) if old.endswith((".qkv.weight", ".proj_out.weight")) else rows


def _check(checkpoint: Mapping[str, torch.Tensor], shapes: Mapping[str, tuple[int, ...]], name: str) -> None:
    missing = [key for key in shapes if key not in checkpoint]
    unexpected = [key for key in checkpoint if key not in shapes]
    differing = [
        f"{key} {tuple(checkpoint[key].shape)} instead of {shape}"
        for key, shape in shapes.items()
        if key in checkpoint and tuple(checkpoint[key].shape) != shape
    ]
    if not (missing or unexpected or differing):
        return
    lines = [f"{name}: another architecture than the 256 px unconditional ADM."]
    for title, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", differing)):
        if found:
            more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            lines.append(f"  {len(found)} tensor(s) {title}: {', '.join(found[:SHOWN])}{more}")
    lines.append(
        "Give OpenAI's 256x256_diffusion_uncond.pt (not the class-conditional model, a classifier or an upsampler)."
    )
    raise UserError("\n".join(lines))


def convert(checkpoint: str | Path, output: str | Path, config: Mapping[str, object]) -> None:
    """Write the diffusers folder of a checkpoint: an ordinary `DDPMPipeline`, whole or not at all, with `conversion.json` beside.

    Args:
        checkpoint: `.pt` or `.safetensors`, in the original's names.
        output: folder to write; must not exist.
        config: from `adm.unet_config`.

    Raises:
        UserError: the folder exists, or the checkpoint is not what it should be.
    """
    from diffusers import DDPMPipeline

    output = Path(output)
    if output.exists():
        raise UserError(f"{output}: exists already. Name another folder, or remove this one.")
    unet = to_diffusers(read_checkpoint(checkpoint), config, str(checkpoint))
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(output)
    try:
        DDPMPipeline(unet, adm.scheduler()).save_pretrained(temporary)
        facts = {"checkpoint": Path(checkpoint).name, "sha256": file_sha256(checkpoint)}
        write_record(temporary / "conversion.json", facts)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
