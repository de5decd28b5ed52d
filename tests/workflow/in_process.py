"""A plan's jobs one after the other in one process, each by its rule's own command: minutes become seconds where jobs are small."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from cgddi.cli import main
from cgddi.plan.config import load_config
from cgddi.plan.jobs import Plan
from cgddi.plan.paths import RESULTS

from tests.plan.walk import job_of
from tests.workflow.paper_scale import ROOT

RULE = re.compile(r"^(?:use )?rule (?:(\w+) as )?(\w+)(?: with)?:\n(.*?)(?=^(?:use )?rule |\Z)", re.S | re.M)


def commands() -> dict[str, str]:
    """Rule -> its shell command."""
    text = "".join(path.read_text() for path in sorted((ROOT / "rules").glob("*.smk")))
    found = {}
    for source, name, body in RULE.findall(text):
        shell = re.search(r'shell:\s+"""(.*?)"""', body, re.S)
        found[name] = shell[1] if shell else found.get(source, "")
    return found


def run(*configfiles: str, target: str = "published") -> Counter[str]:
    """Make a target as Snakemake would; what is there and older than none of its inputs stays.

    Returns:
        Rule -> jobs that ran.
    """
    plan, shells = Plan(load_config(*configfiles), main=True), commands()
    root, ran = f"{plan.config.results}/", Counter()
    order: dict[tuple, tuple] = {}

    def visit(rule: str, wildcards: dict[str, str]) -> None:
        key = rule, *(wildcards[name] for name in RESULTS[rule].wildcards)
        if key not in order:
            inputs = plan.inputs(rule, **wildcards)
            order[key] = ()
            made = [
                file
                for name, files in inputs.items()
                if name != "spec"
                for file in ([files] if isinstance(files, str) else files)
            ]
            for path in made:
                visit(*job_of(path.removeprefix(root)))
            del order[key]
            order[key] = rule, wildcards, [inputs["spec"], *made]

    visit(target, {})
    plan.begin(real=True)
    for rule, wildcards, inputs in order.values():
        record = Path(plan.paths.record(rule, **wildcards))
        if record.is_file() and record.stat().st_mtime > max(Path(path).stat().st_mtime for path in inputs):
            continue
        ran[rule] += 1
        outputs = {name: pattern.format_map(wildcards) for name, pattern in plan.paths.outputs(rule).items()}
        for path in outputs.values():
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        masks = {"sam3": "sam3_masks", "fedd": "fedd_masks"}
        source = plan.config.masks_of(wildcards["cohort"]).source if rule == "masks" else ""
        words = shells[masks.get(source, rule)].replace("\\", " ").partition("2>")[0].split()
        values = {
            "{input.spec:q}": inputs[0],
            "{params.folder:q}": str(Path(next(iter(outputs.values()))).parent),
            "{params.cache:q}": plan.config.cache,
            "{params.state:q}": plan.paths.state(rule).format_map(wildcards),
            "{log.metrics:q}": plan.paths.metrics(rule).format_map(wildcards),
            "{threads}": "1",
            **{f"{{output.{name}:q}}": path for name, path in outputs.items()},
            **{f"{{wildcards.{name}}}": value for name, value in wildcards.items()},
        }
        argv = [values.get(word, word) for word in words if word not in ("{params.cgddi}", "--gpus", "{resources.gpu}")]
        assert main(argv) == 0, argv
    return ran
