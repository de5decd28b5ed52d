"""Published .pth checkpoints, read without running what a pickle may hold."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

from cgddi.core.errors import UserError
from cgddi.diffusion.weights import read_tensors


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
