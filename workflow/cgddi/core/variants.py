"""Names of weight files, as diffusers and transformers write them. Light: planning asks too."""

from __future__ import annotations

import re


def variant_of(file: str) -> tuple[str, str]:
    """("diffusion_pytorch_model", "fp16") of diffusion_pytorch_model.fp16-00001-of-00002.safetensors and the like; the plain
    weights' variant is ""."""
    stem = re.sub(r"-\d+-of-\d+", "", file)
    parts = [part for part in stem.split(".") if part not in ("safetensors", "index", "json")]
    return parts[0], ".".join(parts[1:])
