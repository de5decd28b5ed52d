"""Every result's name, once. Light: read at every parse."""

import re
from collections.abc import Iterable
from typing import NamedTuple


class Result(NamedTuple):
    """Where a rule's results lie.

    Args:
        base: path below the results folder without an ending, with the rule's wildcards.
        files: name -> ending of each file; the first is the one that other jobs read.
        record: name of the file that holds the spec it was made from.
    """

    base: str
    files: dict[str, str]
    record: str = "record"

    @property
    def wildcards(self) -> list[str]:
        """Names of its wildcards."""
        return re.findall(r"{(\w+)}", self.base)


ARCHIVE = {"manifest": ".jsonl", "tar": ".tar", "record": ".json"}
"""An archive is read by its manifest, which holds the hash of every image: small, so that Snakemake compares it by content. The
archives themselves are too large for that, and would count as changed whenever a copy gave them new times."""
TABLES = {name: f"/{name}.csv" for name in ("metrics", "by_tone", "by_rarity", "by_disease", "paired")}
PLOTS = {f"plot_of_{name}": f"/{name}.png" for name in ("roc", "metrics", "calibration")}
NETWORK = {"weights": "/weights.safetensors", "record": "/record.json"}

RESULTS = {
    "split": Result("splits/{split}/{cohort}", {"table": ".csv", "record": ".json"}),
    "canvas_split": Result("splits/{split}/canvases/{cohort}", {"table": ".csv", "record": ".json"}),
    "masks": Result("masks/{cohort}/{batch}", ARCHIVE),
    "healthy": Result("healthy/{cohort}/{batch}", ARCHIVE),
    "review": Result("review", {"page": "/index.html", "record": "/record.json"}),
    "canvases": Result("canvases/{cohort}", ARCHIVE),
    "skin": Result("skin/{cohort}", ARCHIVE),
    "lesion_mapped": Result("lesion_mapped/{canvas_cohort}/{cohort}/{batch}", ARCHIVE),
    "embedding": Result(
        "embedding/{scope}/{concept}", {"weights": "/learned_embeds.safetensors", "record": "/record.json"}
    ),
    "lora": Result(
        "lora/{scope}/{concept}",
        {"weights": "/pytorch_lora_weights.safetensors", "samples": "/samples.png", "record": "/record.json"},
    ),
    "calibration": Result("calibration/{scope}", {"limits": ".json"}, "limits"),
    "semantic": Result("semantic/{scope}/{canvas_cohort}/{concept}", ARCHIVE),
    "index": Result("index/{split}", {"table": ".parquet", "record": ".json"}),
    "leakage": Result("audit/{split}/leakage", {"report": ".json"}, "report"),
    "audit": Result("audit/{split}/{kind}", {"report": ".json"}, "report"),
    "audit_pictures": Result("audit/{pictures}", ARCHIVE),
    "classify": Result(
        "classify/{split}/{regime}/{method}/{run_seed}",
        {"predictions": "/predictions.csv", **NETWORK, "start": "/start.safetensors"},
    ),
    "ladder": Result(
        "ladder",
        {"summary": "/summary.json", "table": "/ladder.csv", "text": "/table.md", "plot_of_ladder": "/ladder.png"},
        "summary",
    ),
    "fairness": Result(
        "fairness",
        {"summary": "/summary.json", **TABLES, "table": "/table.md", "latex": "/table.tex", **PLOTS},
        "summary",
    ),
    "published": Result("published", {"page": "/index.html", "table": "/published.csv", "record": "/record.json"}),
    "report": Result("report", {"page": "/index.html", "quiz": "/real-or-made.html", "record": "/record.json"}),
    "export": Result("export", {"card": "/README.md", "record": "/record.json"}),
    "fedd_features": Result(
        "fedd/features/{cohort}/t{timestep}/{features_batch}", {"features": ".safetensors", "record": ".json"}
    ),
    "fedd_segmenter": Result(
        "fedd/segmenter/{variant}/{subset}/{run_seed}",
        {**NETWORK, "test": "/test.csv", "validation": "/validation.csv", "pictures": "/pictures.safetensors"},
    ),
    "fedd_probe": Result(
        "fedd/probe/{subset}/t{timestep}", {"predictions": "/predictions.csv", "record": "/record.json"}
    ),
    "fedd_baseline": Result(
        "fedd/baseline/segmentation/{network}/{subset}/{run_seed}", {**NETWORK, "measures": "/test.csv"}
    ),
    "fedd_classifier": Result(
        "fedd/baseline/classification/{network}/{subset}/{run_seed}", {**NETWORK, "measures": "/predictions.csv"}
    ),
    "fedd_tables": Result("fedd/tables", {"summary": "/summary.json"}, "summary"),
}
"""Rule -> where its results lie. Rules that make one result from different sources (masks) share a name here."""


OF_TABLE = ("fairness", "published", "report")
"""Rules whose results are about the runs that one published table asks for."""


class Paths:
    """Paths of a results folder: as patterns, with a rule's wildcards, or of one job.

    Args:
        table: the published table that is made (`published.table`): what is about its runs alone lies in a folder of its own, so
            that several tables share the rest.
    """

    def __init__(self, root: str, table: str | None = None):
        self.root = root
        below = f"tables/{table}/" if table else ""
        self.bases = {rule: (below if rule in OF_TABLE else "") + result.base for rule, result in RESULTS.items()}

    def outputs(self, rule: str) -> dict[str, str]:
        """A rule's outputs by name, with its wildcards."""
        return {name: f"{self.root}/{self.bases[rule]}{ending}" for name, ending in RESULTS[rule].files.items()}

    def folder(self, rule: str, **wildcards: object) -> str:
        """One job's results without their endings: a folder, or the stem of their names."""
        return f"{self.root}/{self.bases[rule].format_map(wildcards)}"

    def file(self, rule: str, name: str | None = None, **wildcards: object) -> str:
        """One output of one job; without a name the one that other jobs read."""
        files = RESULTS[rule].files
        return self.folder(rule, **wildcards) + (files[name] if name else next(iter(files.values())))

    def record(self, rule: str, **wildcards: object) -> str:
        """The file that holds the spec a job's result was made from."""
        return self.file(rule, RESULTS[rule].record, **wildcards)

    def log(self, rule: str) -> str:
        """A rule's log, with its wildcards."""
        return f"{self.root}/logs/{self.bases[rule]}.log"

    def metrics(self, rule: str) -> str:
        """What a rule's jobs used (JSON lines), with its wildcards."""
        return f"{self.root}/logs/{self.bases[rule]}.metrics.jsonl"

    def benchmark(self, rule: str) -> str:
        """Snakemake's own measure of a rule's jobs, with its wildcards."""
        return f"{self.root}/benchmarks/{self.bases[rule]}.tsv"

    def state(self, rule: str) -> str:
        """Folder of a rule's checkpoints, with its wildcards."""
        return f"{self.root}/.state/{self.bases[rule]}"


def safe_pattern(names: Iterable[str]) -> str:
    """A regular expression that matches exactly these names, for wildcard constraints."""
    return "|".join(map(re.escape, names)) or "(?!)"
