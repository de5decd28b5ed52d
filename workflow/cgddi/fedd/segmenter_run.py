"""One segmenter run: read the subset's features and masks, train, segment validation and test photos, write the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cgddi.core.archive import record_for, write_atomic, write_record
from cgddi.core.errors import InvalidInput
from cgddi.fedd.photos import read_photos, without_covered
from cgddi.fedd.pixels import load_pixels, missing_maps
from cgddi.fedd.results import iou_csv, pictures
from cgddi.fedd.segmenter import Segmenter
from cgddi.fedd.segmenter_train import fit
from cgddi.fedd.settings import SegmenterSettings
from cgddi.fedd.study_input import ROLES, open_study, tone_counts
from cgddi.job import runtime


def run_segmenter(
    spec: Mapping[str, Any],
    settings: SegmenterSettings,
    features: Sequence[str | Path],
    output: str | Path,
    threads: int,
    metrics: str | Path | None = None,
) -> None:
    """Train and test one segmenter (see `cgddi fedd segmenter --help`).

    Args:
        spec: the job's spec. settings: how to train. features: feature files that hold the study's photos. output: folder.
        threads: CPU threads. metrics: usage log, or None.

    Raises:
        UserError: features of other settings than the spec's, a training photo that is also tested, no lesion to learn.
        InvalidInput: photos without features or with a bad mask, all of them.
    """
    variant, run_seed, blocks = spec["variant"], int(spec["run_seed"]), list(spec["blocks"])
    facts = {"variant": variant, "subset": str(spec["subset"]), "run_seed": run_seed}
    with runtime.usage_log(metrics, stage="fedd_segmenter", **facts) as usage:
        device = runtime.start(threads)
        files = open_study(features, spec)
        problems = [p for role in ROLES for p in missing_maps(files, spec[role], blocks)]
        if problems:
            raise InvalidInput(problems)
        photos = {role: read_photos(spec[role], int(spec["size"]), spec["crop"], spec.get("id_map")) for role in ROLES}
        photos["train"], left_out = without_covered(photos["train"])
        data = {
            role: load_pixels(files, photos[role].rows, photos[role].truth, blocks, device, variant == "centre")
            for role in ("train", "validation")
        }
        # The same pixels and initial weights for every variant: their difference is the treatment of tones alone.
        names = (int(spec["seed"]), "fedd segmenter", str(spec["subset"]), run_seed)
        fitted = fit(data["train"], data["validation"], settings, variant, names)
        usage.update(images=len(photos["train"]), steps=fitted.steps)
        known = {
            **facts,
            "blocks": blocks,
            "channels": [block.shape[1] for block in data["train"].maps],
            **{name: files.facts[name] for name in ("model", "size", "timestep", "crop")},
            "settings": settings.model_dump(mode="json"),
            "training_images": sorted(row["image_id"] for row in photos["train"].rows),
        }
        segmenter = Segmenter(fitted.networks, known)
        out = Path(output)
        doubt = {}
        for role in ("validation", "test"):
            masks = [segmenter.predict(files.maps(row["image_id"], blocks)) for row in photos[role].rows]
            predicted, uncertainty = (np.stack(part) for part in zip(*masks, strict=True))
            write_atomic(out / f"{role}.csv", iou_csv(photos[role].rows, predicted, photos[role].truth))
            doubt[role] = disagreement(uncertainty, predicted == photos[role].truth)
        test = photos["test"]
        shown = pictures(test.rows, test.pixels, test.truth, predicted, uncertainty, int(spec["seed"]))
    write_atomic(out / "pictures.safetensors", shown)
    segmenter.save(out / "weights.safetensors")
    record = record_for(
        spec,
        sorted({*map(str, features), *(row[key] for role in ROLES for row in spec[role] for key in ("file", "mask"))}),
        **known,
        counts={role: tone_counts(photos[role].rows) for role in ROLES},
        left_out=left_out,
        history=fitted.history,
        chosen_steps=fitted.chosen_steps,
        disagreement=doubt,
    )
    write_record(out / "record.json", record)


def disagreement(uncertainty: np.ndarray, right: np.ndarray) -> dict[str, float | None]:
    """Mean disagreement of the members on pixels they have right, and on those they have wrong (null: there are none)."""
    means = {"right": uncertainty[right], "wrong": uncertainty[~right]}
    return {name: round(float(values.mean()), 5) if values.size else None for name, values in means.items()}
