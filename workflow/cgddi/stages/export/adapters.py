"""Adapters as diffusers loads them: weights, token and a model card each."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cgddi.core.archive import write_atomic
from cgddi.stages.export.settings import ExportSettings


def export_adapters(
    loras: Sequence[str], embeddings: Sequence[str], folder: Path, settings: ExportSettings, base: str | None
) -> list[Path]:
    """Copy adapters and tokens to <scope>/<concept>/ and write a card for each and one for all.

    Args:
        loras: lora/<scope>/<concept>/pytorch_lora_weights.safetensors.
        embeddings: embedding/<scope>/<concept>/learned_embeds.safetensors.
        base: hub id of the base model; None where it has none.

    Returns:
        The adapters' folders.
    """
    made = []
    for path in map(Path, [*loras, *embeddings]):
        place = folder / path.parts[-3] / path.parts[-2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place / path.name)
        if path in map(Path, loras):
            made.append(place)
    for place in made:
        write_atomic(place / "README.md", adapter_card(place, settings, base))
    if made:
        names = [place.relative_to(folder) for place in made]
        write_atomic(folder / "README.md", _overview(names, settings, base))
    return made


def adapter_card(folder: Path, settings: ExportSettings, base: str | None) -> str:
    """Model card of one adapter, from what its file says of itself."""
    from safetensors import safe_open

    with safe_open(folder / "pytorch_lora_weights.safetensors", "np") as file:
        head = {name: _value(text) for name, text in (file.metadata() or {}).items()}
    concept, how = head.get("cgddi.concept", {}), head.get("cgddi.settings", {})
    token, name = concept.get("token", f"<{folder.name}>"), concept.get("name", folder.name)
    prompt = how.get("prompt", "An image of {token} on the skin of a {tone}-skinned individual")
    photos, priors = head.get("cgddi.images", []), head.get("cgddi.priors", [])
    example = prompt.format(token=token, tone="dark")
    facts = {
        "disease": name,
        "token": f"`{token}`",
        "prompts": f"`{prompt.replace('{token}', token)}`, with tone light, medium or dark",
        "learnt from": f"{len(photos)} photos of the disease, {len(priors)} healthy images as prior",
        "rank, train steps, learning rate": ", ".join(str(how.get(k, "?")) for k in ("rank", "steps", "learning_rate")),
        "image size": f"{how.get('image_size', '?')} px",
        "base model": f"{base or 'a local folder'} (sha256 of its weights {str(head.get('cgddi.base_sha256', '?'))[:16]})",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""{_head(settings, base)}
# {name}: an adapter of {settings.name}

A LoRA adapter (UNet and text encoder as its file says) and the token it was trained with. Research only, not for clinical use:
what it draws is no patient, and nobody may be diagnosed by it.

| | |
|---|---|
{table}

{_usage(folder, base, token, example)}

Photos it learnt from may be recognisable in what it draws; the base model's licence holds for its outputs too.{_private(settings)}
"""


def _usage(folder: Path, base: str | None, token: str, example: str) -> str:
    from safetensors import safe_open

    embedding, name = folder / "learned_embeds.safetensors", "learned_embeds.safetensors"
    load = f'pipe.load_textual_inversion(folder, weight_name="{name}", token="{token}")'
    imports = "from diffusers import AutoPipelineForText2Image"
    if embedding.is_file():
        with safe_open(embedding, "np") as file:
            two = {"clip_l", "clip_g"} <= set(file.keys())
        if two:  # Stable Diffusion XL: a row for each text encoder
            imports += "\nfrom safetensors.torch import load_file"
            load = f"""rows = load_file(f"{{folder}}/{name}")
pipe.load_textual_inversion(rows["clip_l"], token="{token}", text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer)
pipe.load_textual_inversion(rows["clip_g"], token="{token}", text_encoder=pipe.text_encoder_2, tokenizer=pipe.tokenizer_2)"""
    return f"""```python
import torch
{imports}

folder = "."  # of this file
pipe = AutoPipelineForText2Image.from_pretrained("{base or "BASE_MODEL"}", safety_checker=None)
pipe.to("cuda" if torch.cuda.is_available() else "cpu")
{load}
pipe.load_lora_weights(folder, weight_name="pytorch_lora_weights.safetensors")
pipe("{example}").images[0].save("sample.png")
```"""


def _overview(names: Sequence[Path], settings: ExportSettings, base: str | None) -> str:
    rows = "\n".join(f"| [`{name}`]({name}/README.md) |" for name in names)
    return f"""{_head(settings, base)}
# Adapters of {settings.name}

{len(names)} LoRA adapters with their tokens, one per disease; each folder's card says how to load it. As a model repository of
their own (`hf upload`), diffusers takes one with `load_lora_weights(REPOSITORY, subfolder="{names[0]}")`.{_private(settings)}

| adapter |
|---|
{rows}
"""


def _head(settings: ExportSettings, base: str | None) -> str:
    import yaml

    head = {
        "license": settings.license,
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        **({"base_model": base} if base else {}),
        "tags": ["lora", "diffusers", "text-to-image", "dermatology", "not-for-clinical-use"],
    }
    return f"---\n{yaml.safe_dump(head, sort_keys=False).strip()}\n---"


def _private(settings: ExportSettings) -> str:
    if not settings.private:
        return ""
    return "\n\n**Private.** Learnt from photos whose licence forbids to pass them on: keep this repository private."


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
