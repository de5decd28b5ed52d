"""Predictions that cannot be read or do not belong together: each is named by file, row and column."""

from __future__ import annotations

import pandas as pd
import pytest
from cgddi.core.errors import InvalidInput, UserError
from cgddi.stages.fairness.predictions import gather, read_run

from tests.stages.fairness.predictions import write_run


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (("probability", "nan"), "row 5, column probability"),
        (("probability", "1.2"), "not a probability"),
        (("predicted", "maybe"), "not one of false, true"),
        (("tone", "beige"), "not one of light, medium, dark"),
        (("image_id", "im000"), "image stands twice"),
        (("malignant", ""), "column malignant"),
    ],
)
def test_bad_predictions_are_named_by_row_and_column(tmp_path, cell, text):
    path = write_run(tmp_path, "real", 0, 1.0)
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[3, cell[0]] = cell[1]
    table.to_csv(path, index=False)
    with pytest.raises(InvalidInput, match=text):
        read_run(path)


def test_missing_record_column_and_disagreeing_runs(tmp_path):
    path = write_run(tmp_path, "real", 0, 1.0)
    other = write_run(tmp_path, "real", 1, 1.0)
    chosen = write_run(tmp_path, "real", 2, 1.0, selection="test")
    with pytest.raises(UserError, match="chose their epochs differently"):
        gather([read_run(path), read_run(chosen)])
    table = pd.read_csv(other, dtype=str, keep_default_na=False)
    table.iloc[:-1].to_csv(other, index=False)
    with pytest.raises(UserError, match="differ in test images"):
        gather([read_run(path), read_run(other)])
    with pytest.raises(UserError, match="seed of this setting stands twice"):
        gather([read_run(path), read_run(path)])
    table.drop(columns="tone").to_csv(other, index=False)
    with pytest.raises(InvalidInput, match="no column tone"):
        read_run(other)
    (tmp_path / "single/real/baseline/0/record.json").unlink()
    with pytest.raises(UserError, match="Run classify again"):
        read_run(path)
