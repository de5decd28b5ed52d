"""What the image sheet says of photos: concept, tone, malignant, group. Light.

A label comes to a job by its spec (key `labels`) where the job uses it, and never through an archive of photos: a corrected label
makes those jobs run again that use it, and no others. Labels of test photos go to the tables alone.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def labels_of(spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Image id -> its labels, from a spec's rows `labels` (image_id and some of concept, tone, malignant, group)."""
    return {
        row["image_id"]: {name: value for name, value in row.items() if name != "image_id"}
        for row in spec.get("labels", ())
    }


def labelled(rows: Iterable[Mapping[str, Any]], labels: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Manifest rows of photos with their labels; a row without any stays as it is."""
    return [{**row, **labels.get(row.get("image_id") or row["key"], {})} for row in rows]


def hidden(index: Any) -> Any:
    """Whether rows of an index (a data frame) are test photos whose labels it does not tell, a boolean series."""
    return (index["role"] == "test") & index["tone"].isna()


def with_labels(index: Any, labels: Mapping[str, Mapping[str, Any]]) -> Any:
    """An index (a data frame) in which test photos have the labels given, for what is shown or measured of them: those of concept,
    tone and malignant that a spec tells."""
    index, rows = index.copy(), hidden(index) & index["image_id"].isin(list(labels))
    images = index["image_id"][rows]
    for name in ("concept", "tone", "malignant"):
        if all(name in labels[image] for image in images):
            index.loc[rows, name] = [labels[image][name] for image in images]
    return index
