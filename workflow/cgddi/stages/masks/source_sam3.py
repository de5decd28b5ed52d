"""Masks by SAM 3's text prompts: each photo encoded once, each prompt encoded once per job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from PIL import Image
from transformers import Sam3Model, Sam3Processor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cgddi.core.errors import UserError
from cgddi.core.images import cropped
from cgddi.stages.masks.combine import Evidence, combined, evidence
from cgddi.stages.masks.found import Found, uncertainty_bytes
from cgddi.stages.masks.sam3_model import load_sam3
from cgddi.stages.masks.settings import Drawn, MasksSettings


class Sam3Finder:
    """Finds the classes by their prompts.

    Args:
        settings: working size, crop and prompts.
        model: SAM 3, in evaluation mode on its device.
        processor: its processor.
    """

    def __init__(self, settings: MasksSettings, model: Sam3Model, processor: Sam3Processor):
        self.settings, self.model, self.processor = settings, model, processor
        self.batch_size = settings.sam3.batch_size
        self.facts: dict[str, Any] = {
            "segmenter_images": [],
            "model_commit": getattr(model.config, "_commit_hash", None),
        }
        self._prompts = [
            (name, *self._encoded(prompt)) for name in get_args(Drawn) for prompt in getattr(settings.sam3, name)
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
    def find(self, photos: Sequence[tuple[str, Image.Image]]) -> list[Found | str]:
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

    def _batch(self, photos: Sequence[Image.Image]) -> list[Found | str]:
        settings, options, count = self.settings, self.settings.sam3, len(photos)
        pictures = [cropped(photo, settings.crop) for photo in photos]
        pixels = self.processor(images=pictures, return_tensors="pt").pixel_values
        vision = self.model.get_vision_features(pixels.to(self.model.device, self.model.dtype))
        found: list[dict[str, Evidence]] = [{} for _ in photos]
        finite = [True] * count
        for name, features, tokens in self._prompts:
            text = BaseModelOutputWithPooling(pooler_output=features.expand(count, -1, -1))
            out = self.model(vision_embeds=vision, text_embeds=text, attention_mask=tokens.expand(count, -1))
            for number, classes in enumerate(found):
                parts = out.pred_logits[number], out.presence_logits[number], out.pred_masks[number]
                finite[number] &= all(bool(torch.isfinite(part).all()) for part in parts)
                new = evidence(*parts, settings.size, options.confidence, options.mask_threshold)
                classes[name] = classes[name] | new if name in classes else new
        results: list[Found | str] = []
        for classes, fine in zip(found, finite, strict=True):
            if not fine:
                results.append("the model's output is not finite. Set masks.sam3.dtype to float32.")
                continue
            mask, uncertainty = combined(classes, options.precedence)
            results.append(Found(mask, uncertainty_bytes(uncertainty)))
        return results


def inputs(features: Sequence[str], segmenter: str | None) -> list[Path]:
    """Files whose hashes go into the archive's record: none, the model stands in the spec."""
    return []


def open_finder(
    spec: Mapping[str, Any],
    settings: MasksSettings,
    device: torch.device,
    features: Sequence[str],
    segmenter: str | None,
) -> Sam3Finder:
    """The finder of a job: the spec's model, in single precision on a CPU."""
    dtype = getattr(torch, settings.sam3.dtype) if device.type == "cuda" else torch.float32
    return Sam3Finder(settings, *load_sam3(spec["model"], dtype, device))
