"""Label-text embeddings for PatchAlign, from a file or a local text encoder."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from cgddi.core.archive import file_sha256
from cgddi.core.errors import UserError
from cgddi.stages.classify.settings import LabelTexts

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def label_embeddings(settings: LabelTexts, concepts: list[str]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Embeddings E of the label texts.

    Args:
        settings: the file or the encoder.
        concepts: slugs of the concepts in the training images; a file must hold each (it may hold more).

    Returns:
        float32 (m, d) and facts for the record.

    Raises:
        UserError: neither or both sources are given, or the file's texts do not match.
    """
    if (settings.file is None) == (settings.text_encoder is None):
        raise UserError(
            "PatchAlign needs label texts: set classify.label_texts.file or classify.label_texts.text_encoder (one of them)."
        )
    if settings.file is not None:
        return _from_file(settings.file, concepts)
    texts = [settings.template.format(concept=slug.replace("-", " ").replace("_", " ")) for slug in sorted(concepts)]
    return encode(settings.text_encoder, texts), {"labels": sorted(concepts), "text_encoder": settings.text_encoder}


def _from_file(path: str, concepts: list[str]) -> tuple[torch.Tensor, dict[str, Any]]:
    try:
        with safe_open(path, "pt") as file:
            labels = json.loads((file.metadata() or {}).get("labels", "null"))
            texts = file.get_tensor("embeddings").float()
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise UserError(f"label texts {path}: cannot be read ({error}). See classify.label_texts.file.") from error
    if not isinstance(labels, list) or texts.ndim != 2 or len(labels) != len(texts):
        count = len(labels) if isinstance(labels, list) else "no"
        raise UserError(
            f"label texts {path}: {count} labels for embeddings of shape {tuple(texts.shape)}. The file needs tensor "
            "`embeddings` (m, d) and metadata `labels`, a JSON list of m concept slugs."
        )
    absent = sorted(set(concepts) - set(labels))
    if absent:
        raise UserError(f"label texts {path}: no text for {len(absent)} concept(s): {', '.join(absent[:5])}. Add them.")
    norms = texts.norm(dim=1)
    if not torch.isfinite(norms).all() or (norms == 0).any():
        raise UserError(f"label texts {path}: an embedding is zero, NaN or infinite. Make the file again.")
    return texts, {"labels": labels, "file_sha256": file_sha256(path)}


def encode(folder: str, texts: list[str]) -> torch.Tensor:
    """Mean of a text encoder's last hidden states over each text's tokens, (m, d).

    Args:
        folder: a transformers model with its tokenizer, or a diffusers model with subfolders text_encoder and tokenizer; or the
            hub id of such a diffusers model, or `id@revision`.
        texts: m texts.
    """
    from transformers import AutoModel, AutoTokenizer

    root = Path(folder)
    here = root.is_dir()
    source, _, revision = (folder, "", "") if here else folder.partition("@")
    if not here and not HUB_ID.fullmatch(source):
        raise UserError(f"classify.label_texts.text_encoder {folder}: no such folder.")
    whole = here and not (root / "text_encoder").is_dir()
    places = ("", "") if whole else ("tokenizer", "text_encoder")
    try:
        options = {"revision": revision or "main", "local_files_only": here}
        tokenizer = AutoTokenizer.from_pretrained(source, subfolder=places[0], **options)
        model = AutoModel.from_pretrained(source, subfolder=places[1], use_safetensors=True, **options)
        model = model.float().eval()
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"text encoder {folder}: cannot be loaded ({error}). It must be a transformers text model."
        ) from error
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    weight = batch["attention_mask"][..., None].float()
    return ((states * weight).sum(1) / weight.sum(1)).clone()
