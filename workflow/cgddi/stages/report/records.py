"""What the run's records say of how it was made: settings and models. What no record says is None, told as "not recorded"."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

UNTOLD = "not recorded"


def read(path: str | Path) -> dict[str, Any]:
    """A record; empty where there is none that can be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


@dataclass(frozen=True)
class Records:
    """Records of a run, one of each kind where all jobs have the same settings; empty where the run has none.

    Args:
        adapter, token, healthy, samples: of one adapter, its token, one healthy batch, one set of samples.
        canvases: of the canvases of each cohort.
        painted: of every healthy batch behind these.
        classifiers: of every classifier.
        indices: split -> the record of its index.
        spec: of this page, with the run's differences from the defaults and its models where the plan gave them.
    """

    spec: Mapping[str, Any]
    adapter: dict[str, Any] = field(default_factory=dict)
    token: dict[str, Any] = field(default_factory=dict)
    healthy: dict[str, Any] = field(default_factory=dict)
    samples: dict[str, Any] = field(default_factory=dict)
    canvases: Sequence[dict[str, Any]] = ()
    painted: Sequence[dict[str, Any]] = ()
    classifiers: Sequence[dict[str, Any]] = ()
    indices: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def setting(self, kind: str, name: str) -> Any:
        """A setting of one kind of job (`adapter`, `token`...), or None."""
        return getattr(self, kind).get("spec", {}).get("settings", {}).get(name)


def gather(
    spec: Mapping[str, Any],
    adapters: Sequence[str],
    samples: Sequence[str],
    classifiers: Iterable[str],
    indices: Iterable[str | Path],
) -> Records:
    """Read a run's records.

    Args:
        adapters: sheets of the adapters, beside which their records lie.
    """
    adapter = read(Path(adapters[0]).with_name("record.json")) if adapters else {}
    results = Path(adapters[0]).parents[3] if adapters else None
    embedding = adapter.get("spec", {}).get("inputs", {}).get("embedding")
    canvases = [read(path) for path in sorted((results / "canvases").glob("*.json"))] if results else []
    painted = [path for record in canvases for path in record.get("spec", {}).get("inputs", {}).get("healthy", [])]
    healthy = [read((results / path).with_suffix(".json")) for path in painted]
    return Records(
        spec,
        adapter=adapter,
        token=read((results / embedding).with_name("record.json")) if embedding else {},
        healthy=healthy[0] if healthy else {},
        samples=read(Path(samples[0]).with_suffix(".json")) if samples else {},
        canvases=canvases,
        painted=healthy,
        classifiers=[read(path) for path in classifiers],
        indices={Path(path).stem: read(Path(path).with_suffix(".json")) for path in indices},
    )


def base_model(records: Records) -> tuple[str, str]:
    """Name and revision of the diffusion model that learns; for a folder its content's hash stands for a revision."""
    planned = records.adapter.get("spec", {}).get("model", {})
    placed = (records.spec.get("models") or {}).get("base", {})
    source, revision = placed.get("source"), placed.get("revision")
    return source or UNTOLD, revision or str(planned.get("source") or records.adapter.get("base_sha256") or UNTOLD)
