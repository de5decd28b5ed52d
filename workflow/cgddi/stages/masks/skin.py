"""Where a cohort's healthy images show skin, by SAM 3: lesions are transplanted there (masks.on_healthy)."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.images import SKIN, encode_png
from cgddi.stages.masks.quality import despeckled
from cgddi.stages.masks.settings import MasksSettings
from cgddi.stages.masks.stage import CHUNK, MaskPredictor


def of_skin(settings: MasksSettings) -> MasksSettings:
    """The settings with which a healthy image is looked at: there is no lesion, and no ink."""
    return settings.model_copy(update={"sam3": settings.sam3.model_copy(update={"lesion": (), "marker": ()})})


def write_skin(
    spec: Mapping[str, Any], canvases: str | Path, output: str | Path, open_predictor: Callable[[], MaskPredictor]
) -> int:
    """Write a mask of each kept healthy image.

    Args:
        spec: the job's spec: cohort, model. canvases: archive of the kept healthy images.
        output: the archive to write; a sample's key is its canvas, its member `mask.png`. An image without skin is
            skipped, with the reason: nothing is transplanted onto it.

    Returns:
        How many images have a mask.
    """
    pool, predictor = Archive(canvases), open_predictor()
    with ArchiveWriter(output, spec, [pool.manifest_path]) as archive:
        archive.facts.update(predictor.provenance)
        for start in tqdm(range(0, len(pool.rows), CHUNK), desc=f"skin {spec['cohort']}", unit="batch"):
            rows = pool.rows[start : start + CHUNK]
            pictures = [Image.open(io.BytesIO(pool.read(row))).convert("RGB") for row in rows]
            found = predictor.predict([(row["key"], picture) for row, picture in zip(rows, pictures, strict=True)])
            for row, result in zip(rows, found, strict=True):
                mask = None if isinstance(result, str) else despeckled(result.mask)
                if mask is None or not (mask == SKIN).any():
                    archive.skip(row["key"], result if mask is None else "no skin was found on the healthy image")
                    continue
                facts = {"id": f"skin/{spec['cohort']}/{row['key']}", "kind": "skin", "cohort": spec["cohort"]}
                archive.add(row["key"], {"mask.png": encode_png(mask)}, facts | {"tone": row["tone"]})
        return len(archive)
