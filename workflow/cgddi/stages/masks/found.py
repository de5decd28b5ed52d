"""What an automatic source of masks gives, and what it must be able to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Found:
    """An automatic mask.

    Args:
        mask: (size, size) uint8 class ids, `size` being the masks' working size.
        uncertainty: (size, size) uint8, 0 certain to 255 not at all; None where the source has none.
    """

    mask: np.ndarray
    uncertainty: np.ndarray | None = None


class Finder(Protocol):
    """An automatic source: see `source_fedd.FeddFinder` and `source_sam3.Sam3Finder`.

    `facts` go into the archive's record; among them `segmenter_images`, the photos the source was trained on.
    """

    batch_size: int
    facts: dict[str, Any]

    def find(self, photos: Sequence[tuple[str, Image.Image]]) -> list[Found | str]:
        """The masks of (image id, upright photo) pairs, in their order; a text says why a photo has none."""
        ...


def uncertainty_bytes(uncertainty: np.ndarray) -> np.ndarray:
    """Uncertainty of 0 to 1 as uint8, 255 being the least certain."""
    return np.rint(np.clip(uncertainty, 0, 1) * 255).astype(np.uint8)
