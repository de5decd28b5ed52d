"""Feature files: the diffusion features of a batch of photos at one timestep, as one safetensors file and its record.

Names in the file: `<image_id>/map/<block>` float16 (C, h, w), the block's native map; `<image_id>/pooled/<block>` float16
(512,); `<image_id>/kmeans/<block>` uint8 (h, w), the cluster of each cell. The header tells size, timestep, crop, the model's
content hash and the hash of the job's spec; the record of the same name (`.json`) holds the spec itself.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from cgddi.core.archive import canonical, record_for, sha256, write_record
from cgddi.core.errors import Problem, UserError, refuse
from cgddi.diffusion.weights import write_tensors


@dataclass(frozen=True)
class ImageFeatures:
    """Features of one photo, by decoder block.

    Args:
        maps: native maps, float16 (C, h, w). pooled: float16 (512,). kmeans: uint8 (h, w).
    """

    maps: dict[int, torch.Tensor] = field(default_factory=dict)
    pooled: dict[int, torch.Tensor] = field(default_factory=dict)
    kmeans: dict[int, torch.Tensor] = field(default_factory=dict)

    def tensors(self, image_id: str) -> dict[str, torch.Tensor]:
        """By their names in a file."""
        kinds = {"map": self.maps, "pooled": self.pooled, "kmeans": self.kmeans}
        return {
            f"{image_id}/{kind}/{block}": value for kind, blocks in kinds.items() for block, value in blocks.items()
        }


def write_features(
    path: str | Path,
    features: Mapping[str, ImageFeatures],
    spec: Mapping[str, Any],
    inputs: Sequence[str | Path] = (),
    **facts: Any,
) -> None:
    """Write a feature file and its record; equal content gives equal bytes.

    Args:
        spec: the job's spec, kept in the record; its hash goes into the header.
        inputs: files read, hashed into the record.
        facts: into the header and the record: model (content hash), size, timestep, crop, blocks (how many the model has), ...
    """
    path = Path(path)
    tensors = {name: value for image, kept in features.items() for name, value in kept.tensors(image).items()}
    header = {**facts, "settings": spec.get("settings", {}), "spec": sha256(canonical(dict(spec)))}
    write_tensors(path, tensors, {f"cgddi.{name}": canonical(value) for name, value in header.items()})
    write_record(path.with_suffix(".json"), record_for(spec, inputs, images=sorted(features), **facts), [path])


class FeatureFiles:
    """Several feature files as one; tensors are read when asked for.

    Args:
        paths: `.safetensors` files of one model, size, crop and timestep.

    Raises:
        UserError: a file is missing, damaged or no feature file, or the files do not belong together.
    """

    SHARED = ("model", "size", "timestep", "crop")

    def __init__(self, paths: Iterable[str | Path]):
        self.paths = [Path(path) for path in paths]
        self.facts: dict[str, Any] = {}
        self._handles: dict[str, Any] = {}
        self._blocks: dict[tuple[str, str], list[int]] = {}
        for path in self.paths:
            handle = _open(path)
            header = {k.removeprefix("cgddi."): v for k, v in (handle.metadata() or {}).items() if k[:6] == "cgddi."}
            facts = {name: json.loads(text) for name, text in header.items()}
            if "spec" not in facts:
                raise UserError(f"{path}: not a feature file. Give files that `cgddi fedd features` wrote.")
            self.facts = self.facts or facts
            self.require(str(path), **{name: facts.get(name) for name in self.SHARED})
            for name in handle.keys():  # noqa: SIM118 (not a mapping)
                self._handles[name] = handle
                image_id, kind, block = name.split("/")
                self._blocks.setdefault((image_id, kind), []).append(int(block))

    def require(self, other: str, **facts: Any) -> None:
        """Refuse to go together with something made for features of another model, size, timestep or crop."""
        for name, value in facts.items():
            if self.facts.get(name) != value:
                raise UserError(
                    f"{self.paths[0]}: features of {name} {self.facts.get(name)}, and {other} is of {value}. Give files of one run."
                )

    def check_images(self, images: Iterable[str], blocks: Collection[int], kind: str) -> None:
        """Refuse images without features of a kind (see `blocks`) of all these blocks.

        Raises:
            InvalidInput: every image that lacks some.
        """
        problems = []
        for image in images:
            lacking = sorted(set(blocks) - set(self.blocks(image, kind)))
            if lacking:
                message = f"no {kind} features of block {', '.join(map(str, lacking))}"
                remedy = "Run `cgddi fedd features` for this photo and these blocks."
                problems.append(Problem(f"image {image}", message, remedy))
        refuse(problems)

    @property
    def images(self) -> list[str]:
        """Image ids in the files, sorted."""
        return sorted({image_id for image_id, _ in self._blocks})

    def blocks(self, image_id: str, kind: str = "map") -> list[int]:
        """Blocks of which a photo has features of a kind (map, pooled, kmeans), in order."""
        return sorted(self._blocks.get((image_id, kind), []))

    def maps(self, image_id: str, blocks: Sequence[int]) -> dict[int, torch.Tensor]:
        """Native maps of a photo: block -> float16 (C, h, w), in the order asked for."""
        return {block: self._read(image_id, "map", block) for block in blocks}

    def pooled(self, image_id: str, block: int) -> torch.Tensor:
        """Pooled features of a photo: float16 (512,)."""
        return self._read(image_id, "pooled", block)

    def kmeans(self, image_id: str, block: int) -> torch.Tensor:
        """Cluster (0, 1, ...) of each cell of a block's map: uint8 (h, w)."""
        return self._read(image_id, "kmeans", block)

    def _read(self, image_id: str, kind: str, block: int) -> torch.Tensor:
        self.check_images([image_id], [block], kind)
        name = f"{image_id}/{kind}/{block}"
        return self._handles[name].get_tensor(name)


def _open(path: Path):
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file. Run `cgddi fedd features`, or the workflow.") from error
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path}: not a whole safetensors file ({error}). Delete it and run the workflow again."
        ) from error
