"""Names of weight files, as diffusers and transformers write them, and how a single one comes from the hub. Light: planning asks
too."""

import re
from pathlib import Path

from cgddi.core.errors import UserError


def variant_of(file: str) -> tuple[str, str]:
    """("diffusion_pytorch_model", "fp16") of diffusion_pytorch_model.fp16-00001-of-00002.safetensors and the like; the plain
    weights' variant is ""."""
    stem = re.sub(r"-\d+-of-\d+", "", file)
    parts = [part for part in stem.split(".") if part not in ("safetensors", "index", "json")]
    return parts[0], ".".join(parts[1:])


def from_hub(source: str, file: str, revision: str | None, what: str) -> Path:
    """A file of a hub id, fetched where its cache has it not.

    Raises:
        UserError: the hub does not give it.
    """
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, file, revision=revision))
    except Exception as error:  # the hub client raises some ten kinds
        raise UserError(
            f"{what}: the hub did not give {file} ({type(error).__name__}). Run `cgddi fetch` where the hub can be reached, or "
            "correct what names it."
        ) from error
