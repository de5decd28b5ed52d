"""The predictions table of a run."""

from __future__ import annotations

import csv
import io

import numpy as np
import pandas as pd

from cgddi.stages.classify.rows import Rows


def predictions_csv(rows: Rows, probabilities: np.ndarray, task: str) -> str:
    """Predictions as csv, one line per test image, ordered by image.

    Columns image_id, cohort, concept, tone, malignant, probability, predicted. For malignancy, `probability` is that of
    malignant and `predicted` true or false (at one half). For other tasks `predicted` is a class, `probability` its own, and
    `label` and one column `p:<class>` per class are added.

    Args:
        rows: the run's rows. probabilities: (N, C) of `rows.test`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    binary = task == "malignancy"
    extra = [] if binary else ["label", *(f"p:{name}" for name in rows.classes)]
    writer.writerow(["image_id", "cohort", "concept", "tone", "malignant", "probability", "predicted", *extra])
    for row, chances in zip(rows.test.itertuples(index=False), probabilities, strict=True):
        known = "" if pd.isna(row.malignant) else str(bool(row.malignant)).lower()
        line = [row.image_id, row.cohort, row.concept, row.tone, known]
        if binary:
            line += [f"{chances[1]:.6f}", str(bool(chances[1] > 0.5)).lower()]
        else:
            best = int(chances.argmax())
            line += [
                f"{chances[best]:.6f}",
                rows.classes[best],
                rows.classes[row.label],
                *(f"{p:.6f}" for p in chances),
            ]
        writer.writerow(line)
    return text.getvalue()
