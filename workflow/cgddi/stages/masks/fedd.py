"""Masks by the segmenter trained on diffusion features (FEDD): stored features in, votes and disagreement out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cgddi.fedd.features.files import FeatureFiles
from cgddi.fedd.segmenter.ensemble import load
from cgddi.stages.masks.settings import MasksSettings
from cgddi.stages.masks.stage import PredictedMask, as_bytes


class FeddPredictor:
    """Applies a trained segmenter to stored features.

    Args:
        segmenter: the folder `cgddi fedd segmenter` wrote.

    Raises:
        UserError: features and segmenter, or their crop and that of the masks, do not belong together.
    """

    def __init__(
        self, settings: MasksSettings, features: FeatureFiles, segmenter: str | Path, device: torch.device | str = "cpu"
    ):
        features.require("the cohort", crop=settings.crop)
        self.size, self.features = settings.size, features
        self.segmenter = load(segmenter, device)
        features.require(
            "the segmenter", **{name: self.segmenter.facts[name] for name in ("model", "timestep", "size")}
        )
        self.provenance: dict[str, Any] = {"segmenter_images": sorted(self.segmenter.training_images)}

    def predict(self, photos: Sequence[tuple[str, Image.Image]]) -> list[PredictedMask | str]:
        """Masks by majority vote and disagreement as uncertainty, both brought to the working size by nearest neighbour."""
        results: list[PredictedMask | str] = []
        for image_id, _ in photos:
            maps = self.features.maps(image_id, self.segmenter.blocks)
            if not all(torch.isfinite(part).all() for part in maps.values()):
                results.append("its features are not finite. Make them again in single precision.")
                continue
            mask, uncertainty = self.segmenter.predict(maps)
            results.append(PredictedMask(self._sized(mask), self._sized(as_bytes(uncertainty))))
        return results

    def _sized(self, array: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(np.asarray(array, np.uint8))
        return np.asarray(picture.resize((self.size, self.size), Image.Resampling.NEAREST))
