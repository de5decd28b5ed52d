"""Masks by SAM 3's text prompts: each photo and each prompt encoded once, instances combined into one mask with its uncertainty."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import Sam3Model, Sam3Processor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cgddi.core.errors import UserError
from cgddi.core.images import BACKGROUND, CLASSES, cropped
from cgddi.stages.masks.settings import MasksSettings
from cgddi.stages.masks.stage import PredictedMask, as_bytes

PRECEDENCE = ("ruler", "marker", "lesion", "skin")
"""Which class a pixel takes where instances overlap, first to last: what lies on top hides what is below."""

MASK_THRESHOLD = 0.5
"""A pixel of higher probability belongs to an instance (the library's default)."""

TYPES = ("sam3", "sam3_video")
"""Model types whose folders hold SAM 3's detector; the published one also holds the video tracker, which is left out."""


class Sam3Predictor:
    """Predicts the classes by their prompts.

    Args:
        model: SAM 3, in evaluation mode on its device.
    """

    def __init__(self, settings: MasksSettings, model: Sam3Model, processor: Sam3Processor):
        self.settings, self.model, self.processor = settings, model, processor
        self.batch_size = settings.sam3.batch_size
        self.provenance: dict[str, Any] = {
            "segmenter_images": [],
            "model_commit": getattr(model.config, "_commit_hash", None),
        }
        self._prompts = [
            (name, *self._encoded(prompt)) for name in PRECEDENCE for prompt in getattr(settings.sam3, name)
        ]

    @torch.inference_mode()
    def _encoded(self, prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
        """A prompt's features (1, L, hidden) and which of its tokens are no padding (1, L)."""
        tokens = self.processor(text=[prompt], return_tensors="pt").to(self.model.device)
        most = self.model.config.text_config.max_position_embeddings
        if tokens.input_ids.shape[1] > most:
            raise UserError(f"masks.sam3: the prompt {prompt!r} is longer than SAM 3's {most} tokens. Shorten it.")
        features = self.model.get_text_features(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        return features.pooler_output, tokens.attention_mask

    @torch.inference_mode()
    def predict(self, photos: Sequence[tuple[str, Image.Image]]) -> list[PredictedMask | str]:
        """Masks of some photos, in batches; a photo for which the model gives no numbers is named."""
        try:
            return [
                result
                for start in range(0, len(photos), self.batch_size)
                for result in self._batch([photo for _, photo in photos[start : start + self.batch_size]])
            ]
        except torch.cuda.OutOfMemoryError as error:
            raise UserError(
                f"the GPU's memory does not hold {self.batch_size} photos. Lower masks.sam3.batch_size."
            ) from error

    def _batch(self, photos: Sequence[Image.Image]) -> list[PredictedMask | str]:
        settings, options, count = self.settings, self.settings.sam3, len(photos)
        pictures = [cropped(photo, settings.crop) for photo in photos]
        pixels = self.processor(images=pictures, return_tensors="pt").pixel_values
        vision = self.model.get_vision_features(pixels.to(self.model.device, self.model.dtype))
        by_photo: list[dict[str, Evidence]] = [{} for _ in photos]
        finite = [True] * count
        for name, features, tokens in self._prompts:
            text = BaseModelOutputWithPooling(pooler_output=features.expand(count, -1, -1))
            out = self.model(vision_embeds=vision, text_embeds=text, attention_mask=tokens.expand(count, -1))
            for number, classes in enumerate(by_photo):
                parts = out.pred_logits[number], out.presence_logits[number], out.pred_masks[number]
                finite[number] &= all(bool(torch.isfinite(part).all()) for part in parts)
                new = evidence(*parts, settings.size, options.confidence)
                classes[name] = classes[name] | new if name in classes else new
        results: list[PredictedMask | str] = []
        for classes, fine in zip(by_photo, finite, strict=True):
            if not fine:
                results.append("the model's output is not finite. Set masks.sam3.precision to fp32.")
                continue
            mask, uncertainty = combined(classes)
            results.append(PredictedMask(mask, as_bytes(uncertainty)))
        return results


@dataclass
class Evidence:
    """What the prompts of one class say about one photo.

    Args:
        inside: (size, size) bool: within an instance that counts.
        belief: (size, size) float32, 0 to 1: the largest product of an instance's score and its probability of the pixel, over all
            instances, also those whose score is too low to count.
    """

    inside: np.ndarray
    belief: np.ndarray

    def __or__(self, other: Evidence) -> Evidence:
        return Evidence(self.inside | other.inside, np.maximum(self.belief, other.belief))


def evidence(
    logits: torch.Tensor, presence: torch.Tensor, masks: torch.Tensor, size: int, confidence: float
) -> Evidence:
    """Evidence of one prompt on one photo. Instances that count are those of `post_process_instance_segmentation`.

    Args:
        logits: (Q,) of the instances.
        presence: (1,) logit of the prompt's presence; an instance's score is the product of both sigmoids (SAM 3, section 3).
        masks: (Q, h, w) logits.
        size: px of the result.
        confidence: instances of a score not above it do not count.
    """
    scores = logits.float().sigmoid() * presence.float().sigmoid()
    probability = masks.float().sigmoid()
    belief = _resized((scores[:, None, None] * probability).amax(0)[None], size)[0]
    inside = torch.zeros(size, size, dtype=torch.bool, device=masks.device)
    for number in torch.nonzero(scores > confidence)[:, 0].tolist():
        inside |= _resized(probability[number][None], size)[0] > MASK_THRESHOLD
    return Evidence(inside.cpu().numpy(), belief.cpu().numpy())


def _resized(maps: torch.Tensor, size: int) -> torch.Tensor:
    return F.interpolate(maps[None], size=(size, size), mode="bilinear", align_corners=False)[0]


def combined(by_class: Mapping[str, Evidence]) -> tuple[np.ndarray, np.ndarray]:
    """One mask of several classes, and how uncertain it is.

    Args:
        by_class: class name -> its evidence; a class that was not looked for is left out.

    Returns:
        Class ids (size, size) uint8, background where no instance counts. Uncertainty (size, size) float32, 0 to 1: one less the
        belief in the pixel's class; on background the largest belief in any class.
    """
    shape = next(iter(by_class.values())).inside.shape
    mask = np.full(shape, BACKGROUND, np.uint8)
    uncertainty = np.maximum.reduce([each.belief for each in by_class.values()])
    for name in reversed([name for name in PRECEDENCE if name in by_class]):
        inside = by_class[name].inside
        mask[inside] = CLASSES[name]
        uncertainty = np.where(inside, 1 - by_class[name].belief, uncertainty)
    return mask, uncertainty.astype(np.float32)


def load_sam3(model: Mapping[str, Any], dtype: torch.dtype, device: torch.device) -> tuple[Sam3Model, Sam3Processor]:
    """SAM 3 in evaluation mode, and its processor.

    Args:
        model: {"source": folder or hub id, "revision": commit or tag or None, "variant": weights variant or None}.

    Raises:
        UserError: the hub did not give it (gated, offline, no such id), it is another model, or its weights are not whole.
    """
    source, revision = str(model["source"]), model.get("revision")
    folder = Path(source).expanduser()
    if folder.is_dir():
        _check_folder(folder)
        source, revision = str(folder), None
    elif source.startswith((".", "/", "~")) or source.count("/") != 1:
        raise UserError(
            f"models.sam3: {source!r} is no folder. Download SAM 3 there (`hf download facebook/sam3 --local-dir FOLDER`), or "
            "name the hub id owner/name."
        )
    try:
        loaded, info = Sam3Model.from_pretrained(
            source,
            revision=revision,
            variant=model.get("variant"),
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
        )
        processor = Sam3Processor.from_pretrained(source, revision=revision)
    except Exception as error:  # the hub client and the loader raise some ten kinds
        raise UserError(_remedy(source, revision, error)) from error
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise UserError(
            f"models.sam3: {source} lacks {len(lacking)} of SAM 3's weights (first: {lacking[0]}). It is another model or "
            "not whole; fetch it again."
        )
    return loaded.to(device).eval(), processor


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    try:
        kind = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{config}: cannot be read ({error}). Name the folder that holds SAM 3's config.json, as "
            "`hf download facebook/sam3` writes it."
        ) from error
    if kind not in TYPES:
        raise UserError(f"{folder}: is a {kind} model, not SAM 3. Name SAM 3's folder in models.sam3.")
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{folder}: no .safetensors file; other weight files are not loaded. Download SAM 3's model.safetensors."
        )


def _remedy(source: str, revision: str | None, error: Exception) -> str:
    chain, text = error, ""
    while chain is not None:
        text += f" {type(chain).__name__} {chain}"
        chain = chain.__cause__ or chain.__context__
    short = " ".join(str(error).split())[:300]
    if "gated" in text.lower() or "401" in text or "403" in text:
        return (
            f"models.sam3: {source} is gated and this machine has no access ({short}). Accept its licence on its page on the "
            "hub and log in with `hf auth login`; or download it elsewhere (`hf download facebook/sam3 --local-dir FOLDER`) and "
            "name the folder in models.sam3.source."
        )
    if Path(source).is_dir():
        return f"models.sam3: {source} cannot be loaded as SAM 3 ({short}). Fetch the folder again."
    return (
        f"models.sam3: the hub did not give {source} (revision {revision}): {short}. Without internet, download it elsewhere "
        "(`hf download facebook/sam3 --local-dir FOLDER`) and name the folder in models.sam3.source; else check id and revision."
    )
