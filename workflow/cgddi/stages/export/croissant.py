"""Croissant: the data set's description for machines (format 1.1), of its parquet files."""

from pathlib import Path
from typing import Any

from cgddi.core.archive import file_sha256
from cgddi.stages.export.card import CITATION, LIMITS, Contents
from cgddi.stages.export.rows import COLUMNS, MEANING
from cgddi.stages.export.settings import ExportSettings

CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
    **{
        name: f"cr:{name}"
        for name in (
            *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject"),
            *("fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
            *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
            *("separator", "source", "subField", "transform"),
        )
    },
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
}
TYPES = {"image": "sc:ImageObject", "string": "sc:Text", "bool": "sc:Boolean", "int64": "sc:Integer"}
LICENCES = {"other": "https://ddi-dataset.github.io/"}
"""Licence on the card -> where it stands, if it is none that SPDX knows."""


def croissant(settings: ExportSettings, contents: Contents, folder: Path) -> dict[str, Any]:
    """The description as a JSON object.

    Args:
        folder: the export, for the hashes of its parquet files.
    """
    files = [
        {
            "@type": "cr:FileObject",
            "@id": str(path.relative_to(folder)),
            "name": path.name,
            "contentUrl": str(path.relative_to(folder)),
            "encodingFormat": "application/x-parquet",
            "sha256": file_sha256(path),
        }
        for path in sorted((folder / "data").rglob("*.parquet"))
    ]
    sets = [
        {
            "@type": "cr:FileSet",
            "@id": f"files-of-{kind}",
            "name": f"files-of-{kind}",
            "encodingFormat": "application/x-parquet",
            "includes": f"data/{kind}/*.parquet",
        }
        for kind in contents.kinds
    ]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": settings.name,
        "description": "Dermatology images of many skin tones, made from a small set of photos: healthy skin, transplanted lesions "
        "and samples of diffusion models. Research only, not for clinical use.",
        "license": LICENCES.get(settings.license, f"https://spdx.org/licenses/{settings.license}"),
        "url": "https://github.com/hectorcarrion/ControllableGenDDI",
        "version": "1.0.0",
        "keywords": ["dermatology", "skin tone", "synthetic", "fairness"],
        "citeAs": CITATION,
        "isLiveDataset": False,
        "rai:dataLimitations": LIMITS,
        "rai:dataUseCases": "Training and testing of classifiers and of generators in research; no diagnosis, no clinical use.",
        "rai:personalSensitiveInformation": "Pixels of clinical photographs and skin tones."
        if settings.private
        else "Skin tones.",
        "distribution": [*files, *sets],
        "recordSet": [_records(kind) for kind in contents.kinds],
    }


def _records(kind: str) -> dict[str, Any]:
    source = {"@id": f"files-of-{kind}"}
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"{kind}/{name}",
            "name": name,
            "description": MEANING[name],
            "dataType": TYPES[form],
            "source": {
                "fileSet": source,
                "extract": {"column": name},
                **({"transform": {"jsonPath": "bytes"}} if form == "image" else {}),
            },
        }
        for name, form in COLUMNS.items()
    ]
    split = {
        "@type": "cr:Field",
        "@id": f"{kind}/split",
        "name": "split",
        "description": "train, validation or test",
        "dataType": "sc:Text",
        "source": {"fileSet": source, "extract": {"fileProperty": "filename"}, "transform": {"regex": "^([a-z]+)-.*$"}},
    }
    return {"@type": "cr:RecordSet", "@id": kind, "name": kind, "key": {"@id": f"{kind}/id"}, "field": [*fields, split]}
