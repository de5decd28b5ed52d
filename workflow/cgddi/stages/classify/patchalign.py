"""PatchAlign (MICCAI 2024): patch features weighted by a learnt mask, aligned with label texts by MGOT."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn import functional

from cgddi.core.archive import file_sha256
from cgddi.core.errors import UserError
from cgddi.stages.classify.methods import confusion_loss, weighted_cross_entropy
from cgddi.stages.classify.mgot import mgot
from cgddi.stages.classify.settings import LabelTexts

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class PatchAlign(nn.Module):
    """A vision transformer whose tokens are masked, classified one by one and aligned with label texts.

    Args:
        backbone: timm model whose `forward_features` gives tokens (B, n, d).
        classes: number of classes. tones: number of tone groups.
        texts: label-text embeddings (m, e); where e differs from d, a learnt linear layer brings the tokens to e for MGOT.

    Raises:
        UserError: the backbone gives no tokens.
    """

    CONFUSION, ALIGNMENT = 0.5, 1.0
    """Published weights of Lconf and MGOT."""

    def __init__(self, backbone: nn.Module, classes: int, tones: int, texts: torch.Tensor):
        super().__init__()
        self.backbone = backbone
        size = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
        if size is None:
            raise UserError(
                "PatchAlign needs a vision transformer of timm (tokens), e.g. vit_base_patch16_224.augreg_in21k."
            )
        with torch.no_grad():
            n, d = backbone.eval().forward_features(torch.zeros(1, 3, *size)).shape[1:]
        m, e = texts.shape
        self.register_buffer("texts", texts.float())
        self.mask = nn.Sequential(nn.Linear(n * d, 128), nn.ReLU(), nn.Linear(128, n * m), nn.Sigmoid())
        self.head = nn.Sequential(nn.Linear(d, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes))
        self.tone = nn.Linear(d, tones)
        self.to_text = nn.Identity() if e == d else nn.Linear(d, e)
        self.tokens, self.labels = n, m

    def masked(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens F (B, n, d), mask M (B, n, m) and masked tokens F' = F * w with w_t = sum over texts of M_t."""
        tokens = self.backbone.forward_features(images)
        mask = self.mask(tokens.flatten(1)).view(-1, self.tokens, self.labels)
        return tokens, mask, tokens * mask.sum(-1, keepdim=True)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> logits (B, C), the mean over tokens."""
        return self.head(self.masked(images)[2]).mean(dim=1)

    def losses(self, images, labels, tones, weight=None) -> dict[str, torch.Tensor]:
        """CE(y) + a Lconf(s(F')) + CE(s(stopgrad F), tone) + b MGOT(F', E, M) (PatchAlign, section 2.3)."""
        tokens, mask, weighted = self.masked(images)
        return {
            "class": weighted_cross_entropy(self.head(weighted).mean(dim=1), labels, weight),
            "confusion": self.CONFUSION * confusion_loss(self.tone(weighted).mean(dim=1).float()),
            "tone": functional.cross_entropy(self.tone(tokens.detach()).mean(dim=1), tones),
            "alignment": self.ALIGNMENT * mgot(self.to_text(weighted), self.texts, mask),
        }


def label_embeddings(settings: LabelTexts, concepts: list[str]) -> tuple[torch.Tensor, dict[str, Any]]:
    """Embeddings E of the label texts.

    Args:
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
    texts = [slug.replace("-", " ").replace("_", " ") for slug in sorted(concepts)]
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
