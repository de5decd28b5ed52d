"""What the data set says of itself: its card, with the metadata the hub reads, counts by tone and disease, licences, limits and
citation; and for machines Croissant (format 1.1), of its parquet files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cgddi.core.archive import file_sha256
from cgddi.core.images import TONES
from cgddi.stages.export.rows import COLUMNS, MEANING
from cgddi.stages.export.settings import ExportSettings

CITATION = """@inproceedings{carrion2026cgddi,
  title     = {{cgDDI}: Controllable Generation of Diverse Dermatological Imagery for Fair and Efficient Malignancy Classification},
  author    = {Carri{\\'o}n, H{\\'e}ctor},
  booktitle = {Medical Image Computing and Computer Assisted Intervention (MICCAI)},
  year      = {2026}
}
@inproceedings{carrion2023fedd,
  title     = {{FEDD} - Fair, Efficient, and Diverse Diffusion-based Lesion Segmentation and Malignancy Classification},
  author    = {Carri{\\'o}n, H{\\'e}ctor and Norouzi, Narges},
  booktitle = {Medical Image Computing and Computer Assisted Intervention (MICCAI)},
  year      = {2023}
}
@article{daneshjou2022ddi,
  title     = {Disparities in dermatology {AI} performance on a diverse, curated clinical image set},
  author    = {Daneshjou, Roxana and others},
  journal   = {Science Advances},
  volume    = {8},
  number    = {32},
  year      = {2022}
}"""
LIMITS = """- Synthetic images show what a generator or a transplant makes of a disease, not what the disease looks like. They
  were made to train classifiers, are no evidence about patients, and nobody may be diagnosed by them.
- A disease of which few photos were known has samples that resemble those photos; `scores` tells how near the nearest one is.
- `tone` of a sample is the tone it was asked for, and of a transplant that of its canvas; both follow Fitzpatrick types that a
  person gave to the photos, in three groups.
- A label is that of the donor or of the adapter's disease. No dermatologist has seen the images one by one."""
PRIVATE = """**Private.** These images carry pixels of photos, or were drawn by adapters that learnt from photos, whose licence
forbids to pass them on. DDI's (research use) forbids to share, publish or sell the photos and copies or parts of them, and to try
to find out who is in them: `healthy`, `lesion_mapped` and `real` hold such pixels. Keep this repository private, and give access
only to people who have signed the licence themselves."""


@dataclass
class Contents:
    """What was written: images by kind and role, and by disease and tone."""

    counts: dict[tuple[str, str], dict[tuple[str, str], int]] = field(default_factory=dict)

    def add(self, kind: str, role: str, counts: Mapping[tuple[str, str], int]) -> None:
        """Note the images of a kind and role, by (disease, tone)."""
        self.counts[kind, role] = dict(counts)

    @property
    def kinds(self) -> list[str]:
        return sorted({kind for kind, _ in self.counts})

    def roles(self, kind: str | None = None) -> list[str]:
        """Roles of a kind, or of any, in the order of their use."""
        found = {role for of, role in self.counts if kind in (None, of)}
        return [role for role in ("train", "validation", "test") if role in found]


def card(settings: ExportSettings, contents: Contents, adapters: int, spec: Mapping[str, Any]) -> str:
    """The data set's README.md.

    Args:
        spec: the job's spec, for the split's name.
    """
    import yaml

    columns = "\n".join(f"| `{name}` | {kind} | {MEANING[name]} |" for name, kind in COLUMNS.items())
    parquet, tars = "parquet" in settings.formats, "webdataset" in settings.formats
    total = sum(sum(per.values()) for per in contents.counts.values())
    usage = "\n\n".join(text for wanted, text in ((parquet, _LOAD), (tars, _STREAM)) if wanted)
    return f"""---
{yaml.safe_dump(_head(settings, contents, total), sort_keys=False, allow_unicode=True).strip()}
---
# {settings.name}

Dermatology images of many skin tones, made by cgDDI-workflow from a small set of photos: {total} images. Research only. **Not
for clinical use.**
{chr(10) + PRIVATE + chr(10) if settings.private else ""}
## Contents

{_by_role(contents)}

Images by disease, as {" / ".join(TONES)} skin:

{_by_disease(contents)}

`split.csv` says which photos the split `{spec.get("split", "main")}` trains on and which it tests: these images were made of
its training photos alone. Test on the others. {_adapters(adapters)}

## Reading it

{usage}

| column | type | meaning |
|---|---|---|
{columns}

{_in_tars() if tars else ""}`record.json` holds the settings, seeds and input hashes; `croissant.json` describes the parquet
files for machines.

## Licences

This data set: `{settings.license}`. The photos' licences hold for what carries their pixels, and the base model's (Stable
Diffusion's is a CreativeML Open RAIL-M, 2.1's RAIL++-M, with restrictions of use) for what was drawn by adapters. The workflow's
code is Apache-2.0.

## Limits

{LIMITS}

## Citation

```bibtex
{CITATION}
```
"""


def _head(settings: ExportSettings, contents: Contents, total: int) -> dict[str, Any]:
    head: dict[str, Any] = {
        "license": settings.license,
        "pretty_name": settings.name,
        "task_categories": ["image-classification", "text-to-image"],
        "tags": ["dermatology", "synthetic", "skin-tone", "fairness", "not-for-clinical-use", "croissant"],
        "size_categories": [_size(total)],
    }
    if "parquet" not in settings.formats:
        names = [(kind, f"webdataset/{kind}", "tar") for kind in contents.kinds]
        everything = ("default", "webdataset/*", "tar")
    else:
        names = [(kind, f"data/{kind}", "parquet") for kind in contents.kinds]
        everything = ("default", "data/*", "parquet")
        head["dataset_info"] = [
            {"config_name": name, "features": [{"name": column, "dtype": kind} for column, kind in COLUMNS.items()]}
            for name in ("default", *contents.kinds)
        ]
    head["configs"] = [
        {
            "config_name": name,
            "data_files": [
                {"split": role, "path": f"{place}/{role}-*.{ending}"}
                for role in contents.roles(None if name == "default" else name)
            ],
            **({"default": True} if name == "default" else {}),
        }
        for name, place, ending in (everything, *names)
    ]
    return head


def _size(total: int) -> str:
    """The hub's word for a number of images."""
    steps = (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")
    return next((word for limit, word in steps if total < limit), "n>1M")


def _by_role(contents: Contents) -> str:
    roles = contents.roles()
    lines = [f"| config | {' | '.join(roles)} |", "|---" * (len(roles) + 1) + "|"]
    for kind in contents.kinds:
        cells = [str(sum(contents.counts.get((kind, role), {}).values())) for role in roles]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    sums = [str(sum(sum(per.values()) for (_, own), per in contents.counts.items() if own == role)) for role in roles]
    return "\n".join([*lines, f"| default (all) | {' | '.join(sums)} |"])


def _by_disease(contents: Contents) -> str:
    counts: dict[str, Counter[tuple[str, str]]] = {kind: Counter() for kind in contents.kinds}
    for (kind, _), per in contents.counts.items():
        counts[kind].update(per)
    tones = [*TONES, *(["unknown"] if any(tone == "unknown" for per in counts.values() for _, tone in per) else [])]
    diseases = sorted({disease for per in counts.values() for disease, _ in per})
    lines = [f"| disease | {' | '.join(counts)} |", "|---" * (len(counts) + 1) + "|"]
    for disease in diseases:
        cells = [" / ".join(str(counts[kind][disease, tone]) for tone in tones) for kind in counts]
        lines.append(f"| {disease} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _adapters(count: int) -> str:
    if not count:
        return "No adapters are in it."
    return f"Adapters: {count}, in `adapters/<scope>/<concept>/`, each with its own card."


def _in_tars() -> str:
    return """The tars hold `<key>.png`, `<key>.mask.png` where there is a mask, and `<key>.json`: the same columns, but no
nulls, since readers guess types from the first samples: missing text is empty, a missing seed -1, and `malignancy` is malignant,
benign or unknown. No key stands twice. Shards are mixed already; shuffle them all the same.

"""


_LOAD = """```python
from datasets import load_dataset

folder = "export"  # the path of this folder; or the id of its repository
samples = load_dataset(folder, "semantic", split="train")  # or "healthy", "lesion_mapped"; "default" has all
stream = load_dataset(folder, split="train", streaming=True)  # nothing is copied
print(samples[0]["disease"], samples[0]["tone"], samples[0]["image"].size)
```"""
_STREAM = """```python
import glob

import webdataset

shards = sorted(glob.glob("export/webdataset/semantic/train-*.tar"))
pairs = webdataset.WebDataset(shards, shardshuffle=False).shuffle(1000).decode("pil").to_tuple("png", "json")
```"""


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
