"""`cgddi cost`: the work of the plan's jobs, by hand, times rates that finished jobs recorded."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.job.runtime import usage_log
from cgddi.plan.config import load_config
from cgddi.plan.jobs import Plan
from cgddi.stages.semantic.draws import choose_canvases, draws
from cgddi.stages.semantic.settings import SemanticSettings
from cgddi.watch import cost

from tests.watch.world import CONFIG, run_snakemake, set_config

GPU = {"device": "NVIDIA A100"}


def metrics(stage, lines):
    path = Path("results/logs", stage, "x.metrics.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def ask(capsys, *arguments):
    assert cost.main([*CONFIG, "--json", *arguments]) == 0
    return {row["stage"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}


def test_cost_multiplies_recorded_rates_with_the_plans_work(world, capsys):
    set_config(lora={"steps": 100}, embedding={"steps": 50}, semantic={"per_tone": 2})
    lines = [
        {"stage": "lora", "steps": 100, "seconds": 400, **GPU},
        {"stage": "lora", "steps": 50, "seconds": 150, **GPU},  # shorter run, 3 s a step
        {"stage": "lora", "steps": 10, "seconds": 20, **GPU},
        {"stage": "lora", "seconds": 9999, **GPU},  # died before it counted its steps
        {"stage": "lora", "steps": 1, "seconds": 9999, "failed": "UserError", **GPU},
        {"stage": "lora", "steps": 1, "seconds": 30, "device": "cpu"},  # another kind of device
        '{"loss": 0.5, "step": 10}',
        "{half a line",
    ]
    metrics("lora", lines)
    cpu = {"stage": "embedding", "steps": 1, "seconds": 30, "device": "cpu"}
    metrics("embedding", [cpu, cpu, cpu, cpu])  # more jobs on it, but less time
    metrics("masks", [{"stage": "masks", "images": 1, "seconds": 99999, "device": "cpu"}])  # take no GPU here
    trained = {"stage": "classify", "method": "baseline", "images": 1000, **GPU}
    metrics("classify", [trained | {"seconds": 4}, trained | {"seconds": 900, "method": "patchalign"}])
    metrics("audit", [{"stage": "audit", "kind": "tone", "seconds": 99999, "device": "cpu"}])
    found = ask(capsys)
    assert found["lora"] == {
        "stage": "lora", "jobs": 3, "left": 3, "unit": "steps", "rate": 3.0, "measured": 3,
        "hours": 3 * 300 / 3600, "hours_left": 3 * 300 / 3600, "device": "NVIDIA A100",
    }  # fmt: skip
    # The one classifier, a baseline: 15 epochs of 4,096 images.
    assert found["classify"]["hours"] == pytest.approx(15 * 4096 * 4 / 1000 / 3600) and found["classify"]["left"] == 1
    # Without a record: the paper's 40 minutes, by its steps.
    assert found["embedding"]["measured"] == 0
    assert found["embedding"]["hours"] == pytest.approx(3 * 50 * (40 * 60 / 500) / 3600)
    # 3 concepts x 3 tones x 2 images, by the UNet's calls; 18 photos with masks, none of them to be inpainted again.
    config = load_config("config.yaml")
    call = 116 / 73
    assert found["semantic"]["hours"] == pytest.approx(
        18 * call * config.semantic.steps * config.semantic.strength / 3600
    )
    assert found["healthy"]["hours"] == pytest.approx(18 * call * config.healthy.steps / 3600)
    assert (found["healthy"]["left"], found["healthy"]["hours_left"]) == (0, 0)
    assert set(found) == {"healthy", "embedding", "lora", "semantic", "audit", "classify"}

    assert cost.main([*CONFIG, "--gpus", "2"]) == 0
    text = capsys.readouterr().out
    left = sum(line["hours_left"] for line in found.values()) / 2
    assert f"at least {left:.2f} h on 2 GPU(s)" in text
    guessed = re.search(r"^\* No job has finished yet: (.*?)\.", text, re.M)[1].split(", ")
    assert sorted(guessed) == ["audit", "embedding", "healthy", "semantic"]
    assert re.search(r"^embedding .* 4\.8 s/step \*", text, re.M) and re.search(r"^lora .* 3 s/step \(3\)", text, re.M)
    assert ask(capsys, "--device", "cpu")["lora"]["rate"] == 30
    with pytest.raises(UserError, match="Recorded devices: NVIDIA A100, cpu"):
        cost.main([*CONFIG, "--device", "H100"])


def test_a_run_that_redoes_much_says_once_what_it_takes_and_how_to_avoid_it(world):
    """P10: before anything runs, a line with jobs, GPU hours (here by hand) and remedy; none where nothing is redone."""
    for stage, seconds in {"lora": 3600, "semantic": 0.0, "embedding": 0.0, "audit": 0.0, "classify": 1800}.items():
        images = 15 * 4096 if stage == "classify" else 1
        facts = {
            "stage": stage,
            "steps": 750,
            "images": images,
            "method": "baseline",
            "seconds": seconds or 1e-9,
            **GPU,
        }
        metrics(stage, [facts])
    assert "will run again" not in run_snakemake("-n")
    set_config(lora={"rank": 3})
    (line,) = re.findall(r".*finished jobs will run again.*", run_snakemake("-n"))
    # three adapters of an hour each and a classifier of half an hour; costly are the generators' jobs
    assert re.search(
        r"6 finished jobs will run again \((3 lora, 3 semantic|3 semantic, 3 lora)\), at most 3\.5 GPU hours; ", line
    )
    assert "taken from the cache" in line and "`cgddi why`" in line and "undo the change to keep them" in line


def test_failed_starts_are_no_rates(world, capsys):
    """C8, as `usage_log` writes them: four starts that failed at once, and one job that worked."""
    path = Path("results/logs/classify/x.metrics.jsonl")
    for _ in range(4):
        with pytest.raises(RuntimeError), usage_log(path, stage="classify"):
            raise RuntimeError("no such file")
    lines = path.read_text().splitlines()
    assert [json.loads(line)["failed"] for line in lines] == ["RuntimeError"] * 4
    assert ask(capsys)["classify"]["measured"] == 0
    with usage_log(path, stage="classify", method="baseline") as usage:
        usage.update(images=30)
    row = json.loads(path.read_text().splitlines()[-1])
    path.write_text("\n".join([*lines, json.dumps(row | {"seconds": 60.0})]))
    found = ask(capsys)["classify"]
    assert (found["measured"], found["rate"]) == (1, 2)


def test_a_classifier_costs_its_images_by_its_method(world, capsys):
    """Two methods with a rate each, and one without; an epoch of so many draws, or of every image there is."""
    set_config(runs={"methods": ["baseline", "patchalign"], "regimes": ["real", "synthetic", "synthetic_real"]})
    trained = {"stage": "classify", "images": 100, **GPU}
    lines = [trained | {"method": "baseline", "seconds": 1}, trained | {"method": "patchalign", "seconds": 7}]
    metrics("classify", lines)
    found = ask(capsys)["classify"]
    # Regime synthetic_real takes the last 5 epochs of those it starts from.
    images = {"baseline": (15 + 15 + 5) * 4096, "patchalign": (20 + 20 + 5) * 4096}
    assert found["hours"] * 3600 == pytest.approx(images["baseline"] * 0.01 + images["patchalign"] * 0.07)
    assert found["rate"] == pytest.approx(found["hours"] * 3600 / sum(images.values())) and found["measured"] == 2
    metrics("classify", lines[:1])
    found = ask(capsys)["classify"]
    assert found["hours"] * 3600 == pytest.approx(images["baseline"] * 0.01 + images["patchalign"] / 150)
    assert found["measured"] == 0

    set_config(
        runs={"methods": ["baseline"], "regimes": ["real", "synthetic"]},
        classify={"images_per_epoch": None},
        semantic={"per_tone": 2},
    )
    plan = Plan(load_config("config.yaml"))
    learnt = [image for image, role in plan.roles["main"].items() if role == "train"]
    masked = [photo.image_id for photo in plan.photos if photo.mask and photo.image_id in learnt]
    samples = 3 * sum(min(2, [p.skin_tone for p in plan.photos if p.image_id in masked].count(t)) for t in TONES)
    everything = len(learnt) + (len(masked) + len(masked) ** 2 + samples)
    assert ask(capsys)["classify"]["hours"] * 3600 == pytest.approx(15 * 0.01 * everything)


@pytest.mark.parametrize("scope", ["main", "all"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"per_tone": 4},
        {"max_canvases": 3, "repeats": 2},
        {"max_canvases": 3, "per_tone": 7, "repeats": 4},
        {"canvas_tones": "same", "repeats": 2},
        {"canvas_tones": "same", "per_tone": 3, "repeats": 2},
    ],
)
def test_samples_are_counted_as_the_stage_draws_them(scope, settings):
    """Uneven tones; photos of the test are no canvases of a split's own generators."""
    settings = SemanticSettings(**settings)
    tones = ["light"] * 5 + ["medium"] * 2 + ["dark"] * 4
    roles = {f"p{n}": "test" if n % 5 == 0 else "train" for n in range(len(tones))}
    photos = [SimpleNamespace(image_id=f"p{n}", id=f"p{n}", skin_tone=t, tone=t) for n, t in enumerate(tones)]
    plan = SimpleNamespace(
        config=SimpleNamespace(semantic=settings), roles={"main": roles}, masked={"here": photos}.__getitem__
    )
    learnt = [photo for photo in photos if scope == "all" or roles[photo.id] == "train"]
    canvases = choose_canvases(learnt, settings.max_canvases, 7, "nevus")
    assert cost.samples(plan, scope, "here") == len(draws(canvases, settings, 7, "nevus"))


def test_a_run_that_ends_in_the_report_keeps_what_it_is_predicted_to_take(world):
    """The whole plan, from the run's own DAG: the report's plan and fact. A run of one file predicts nothing."""
    metrics("lora", [{"stage": "lora", "steps": 100, "seconds": 400, **GPU}])
    set_config(lora={"steps": 100})
    kept = Path("results/logs/plan.jsonl")
    kept.unlink()
    run_snakemake("results/splits/main/here.csv", "--touch", "--forcerun", "split")
    assert not kept.exists()
    run_snakemake("--touch", "--forcerun", "report")
    (line,) = map(json.loads, kept.read_text().splitlines())
    stages = {stage["stage"]: stage for stage in line["stages"]}
    assert line["device"] == "NVIDIA A100" and {stage["left"] for stage in stages.values()} == {None}
    assert (stages["lora"]["jobs"], stages["lora"]["hours"]) == (3, 3 * 100 * 4 / 3600)
    assert (stages["healthy"]["jobs"], stages["healthy"]["measured"]) == (3, 0)
