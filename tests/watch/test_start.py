"""Before the start: models fetched from a hub on this machine, broken ones named, and `check` and `snakemake` refuse the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from cgddi.core.images import encode_png
from cgddi.plan.config import Config, load_config
from cgddi.plan.models import absent, read_lock
from cgddi.watch import machine, site
from cgddi.watch.dag import SNAKEFILE

from tests.hub import COMMIT, Hub
from tests.watch.world import CONCEPTS, TONES, write_sheet

ROOT = SNAKEFILE.parent
TOY = ROOT / "config/toy/model"
KANDINSKY = "kandinsky-community/kandinsky-2-2-decoder-inpaint", "kandinsky-community/kandinsky-2-2-prior"


@pytest.fixture
def world(tmp_path, monkeypatch):
    """18 photos of 32 px, their masks, and a config whose models are the toy's."""
    monkeypatch.chdir(tmp_path)
    rng, rows = np.random.default_rng(0), []
    for folder in ("photos", "masks"):
        Path(folder).mkdir()
    for concept, malignant in CONCEPTS.items():
        for k in range(6):
            name = f"{concept}{k}"
            Path("photos", f"{name}.png").write_bytes(encode_png(rng.integers(0, 256, (32, 32, 3), np.uint8)))
            mask = np.full((32, 32), 4, np.uint8)
            mask[8:20, 8:20] = 1
            np.save(f"masks/{name}.npy", mask)
            rows.append(
                {
                    **{"image_id": name, "file": f"photos/{name}.png", "cohort": "here", "disease": concept},
                    **{"skin_tone": TONES[k % 3], "malignant": str(malignant), "mask": f"masks/{name}.npy"},
                }
            )
    write_sheet(rows)
    Path("diseases.csv").write_text("raw,concept\n" + "".join(f"{n},{n}\n" for n in CONCEPTS))
    shutil.copytree(TOY, "model")
    write_config()
    return tmp_path


def write_config(**changes):
    values = {
        **{"results": "results", "images": "images.csv", "diseases": "diseases.csv"},
        "models": {"base": {"source": "model"}, "inpainting": {"source": "model"}},
        "splits": {"main": {"method": "stratified", "seed": 1, "test": 0.4}},
        "runs": {"methods": ["baseline"], "regimes": ["real", "synthetic"], "seeds": [0]},
        "classify": {"training": {"weights": "random"}},
        "audit": {"features": {"weights": "pixels"}},
    }
    Path("config.yaml").write_text(yaml.safe_dump({**values, **changes}))


def cgddi(*words, **environment) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "workflow"), "HF_HUB_DISABLE_XET": "1", **environment}
    command = [sys.executable, "-m", "cgddi.cli", words[0], "--configfile", "config.yaml", *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def snakemake(*words, **environment) -> subprocess.CompletedProcess:
    env = {**os.environ, **environment}
    command = [sys.executable, "-m", "snakemake", "-s", str(SNAKEFILE), "--configfile", "config.yaml", "--cores", "1"]
    return subprocess.run([*command, *words], capture_output=True, text=True, env=env)


# ---- one checker


def test_check_and_snakemake_refuse_a_broken_model_folder(world):
    """I9: found before anything runs, with the file's name, by both."""
    assert cgddi("check").returncode == 0, cgddi("check").stderr
    path = world / "model/text_encoder/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    (world / "model/scheduler/scheduler_config.json").write_text("<html>404</html>")
    for done in (cgddi("check"), snakemake("-n")):
        said = done.stdout + done.stderr
        assert done.returncode and "text_encoder/model.safetensors has" in said and "is a web page" in said, said
        assert "Traceback" not in said


def test_a_photo_refused_by_check_is_refused_by_snakemake_and_read_once(world):
    """I11: by what it holds, so that putting the good photo back is enough."""
    photo = world / "photos/nevus0.png"
    good = photo.read_bytes()
    photo.write_bytes(good[:100])
    first = cgddi("check")
    assert first.returncode == 2 and "photos/nevus0.png" in first.stderr
    for done in (snakemake("-n"), cgddi("check")):
        said = done.stdout + done.stderr
        assert done.returncode and "row 8, column file: cannot be read" in said, said
    photo.write_bytes(good)
    assert cgddi("check").returncode == 0 and snakemake("-n").returncode == 0
    assert len(json.loads((world / "results/.plan/checked.json").read_text())) == 19  # 18 photos and the cut one


@pytest.mark.parametrize("spoil", ["one file in two rows", "review", "missing model", "no test photo"])
def test_what_one_refuses_the_other_refuses(world, spoil):
    if spoil == "one file in two rows":
        text = Path("images.csv").read_text().replace("photos/nevus1.png", "./photos/nevus0.png")
        Path("images.csv").write_text(text)
    elif spoil == "review":
        Path("review.csv").write_text("image_id,cohort,verdict,note\nnevus0,here,perhaps,\n")
        write_config(review="review.csv")
    elif spoil == "missing model":
        write_config(models={"base": {"source": "./no-model"}, "inpainting": {"source": "model"}})
    else:
        write_config(splits={"main": {"method": "holdout"}})
    for done in (cgddi("check"), snakemake("-n")):
        assert done.returncode and "Traceback" not in done.stderr, done.stdout + done.stderr


# ---- fetch


def random_resnet(folder):
    import timm
    from safetensors.torch import save_file

    folder.mkdir()
    save_file(timm.create_model("test_resnet.r160_in1k").state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"architecture": "test_resnet"}')
    return folder


def test_fetch_takes_every_model_and_jobs_need_no_hub(world, tmp_path):
    """C6: what the plan reads is fetched, at a commit; without it nothing starts; with it the hub may be gone."""
    write_config(
        models={"base": {"source": "someone/base"}, "inpainting": {"source": KANDINSKY[0]}},
        classify={"training": {"weights": "hub", "backbone": "test_resnet.r160_in1k"}},
        audit={"features": {"weights": "hub", "backbone": "test_resnet.r160_in1k"}},
    )
    home = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    refused = cgddi("check", **home)
    assert refused.returncode == 2
    for key in ("models.base", "models.inpainting", "healthy.prior", "classify (method baseline)", "audit.features"):
        assert f"{key}: " in refused.stderr and "Run `cgddi fetch`" in refused.stderr
    started = snakemake("results/masks/here/nevus.000.tar", **home)
    assert started.returncode == 0, started.stderr  # masks need no model
    started = snakemake("results/healthy/here/nevus.000.tar", **home)
    assert started.returncode == 1 and f"{KANDINSKY[0]} is not on this disk" in started.stderr
    assert "someone/base" not in started.stderr.split("problem(s)")[1], "nothing that runs reads it"

    names = ("someone/base", *KANDINSKY)
    hub = Hub.of_folders(
        {**dict.fromkeys(names, TOY), "timm/test_resnet.r160_in1k": random_resnet(tmp_path / "resnet")}
    )
    with hub:
        online = home | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        hub.break_after = 1_000_000
        broken = cgddi("fetch", **online)
        assert hub.break_after is None, "the connection was cut once"
        if broken.returncode:  # the client may go on by itself
            assert "Run the command again" in broken.stderr
        whole = sum(len(data) for name in hub.repositories for data in hub.repositories[name].values())
        done = cgddi("fetch", **online)
        assert done.returncode == 0, done.stderr
        assert hub.given <= whole + 1_000_000, "only the file that was cut was begun again"
        before = hub.given
        assert cgddi("fetch", **online).returncode == 0 and hub.given == before, "what is there is not fetched again"
    assert read_lock() == dict.fromkeys((*names, "timm:test_resnet.r160_in1k"), COMMIT)
    done = cgddi("check", **home)
    assert done.returncode == 0, done.stderr
    assert "HF_HUB_OFFLINE=1 " in snakemake("-n", "-p", **home).stdout

    (cut,) = (tmp_path / "home/hub/models--someone--base/snapshots" / COMMIT / "unet").glob("*.safetensors")
    blob = cut.resolve()
    blob.write_bytes(blob.read_bytes()[:-5])
    found = [str(problem) for problem in _absent(home)]
    assert len(found) == 1 and "someone/base: unet/diffusion_pytorch_model.safetensors has" in found[0]
    assert f"Delete {cut.parents[1]} and run `cgddi fetch` again" in found[0]


def _absent(home):
    before = {key: os.environ.get(key) for key in home}
    os.environ.update(home)
    try:
        return absent(load_config("config.yaml"))
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


# ---- the machine


def nvidia_smi(folder, monkeypatch, newest):
    tool = folder / "nvidia-smi"
    tool.write_text(
        '#!/bin/sh\n[ -n "$1" ] && echo "NVIDIA L4, 535.104.05" || echo "| Driver Version: 535.104.05  '
        f'CUDA Version: {newest} |"\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("newest", "cuda", "sees", "words"),
    [
        (
            "12.2",
            "12.8",
            False,
            "built for CUDA 12.8 and sees no GPU through this driver, which runs CUDA 12.2 at most",
        ),
        ("12.9", "12.8", False, "sees no GPU, though the driver runs CUDA 12.9"),
        ("12.9", None, False, "is built without CUDA"),
        ("12.9", "12.8", (5, 0), "has no code for this card (compute capability 5.0)"),
    ],
)
def test_a_driver_and_a_build_that_do_not_fit(tmp_path, monkeypatch, newest, cuda, sees, words):
    import torch

    nvidia_smi(tmp_path, monkeypatch, newest)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(sees))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: sees)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_70", "sm_80", "sm_90", "compute_90"])
    problem = machine.gpu_problems(Config())[0]
    assert words in str(problem) and "L4, driver 535.104.05" in str(problem) and problem.remedy


def test_bf16_on_a_card_that_emulates_it_is_told(tmp_path, monkeypatch):
    import torch

    nvidia_smi(tmp_path, monkeypatch, "12.9")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_80"])
    for capability, told in (((7, 5), 1), ((8, 9), 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert len(machine.gpu_problems(Config())) == told
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert "lora" in str(machine.gpu_problems(Config())[0])


def test_a_disk_too_small_for_the_plan_is_said(world, monkeypatch):
    from cgddi.watch.dag import ask_snakemake

    plan, jobs = ask_snakemake(["config.yaml"])
    needed = machine.estimate(plan, jobs)
    assert 25e6 < needed < 2e9
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    lines, (problem,), (warning,) = machine.disk_problems(plan, jobs)
    assert "needs about" in str(problem) and "1 kB left" in str(problem) and "cache_gb" in str(warning)
    for share, stops in ((0.09, True), (0.11, False), (1.01, None)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=int(needed * share): SimpleNamespace(free=free))
        _, problems, warnings = machine.disk_problems(plan, jobs)
        told = [["needs about" in str(p) for p in part].count(True) for part in (problems, warnings)]
        assert told == [stops is True, stops is False], "an estimate stops a run only where there is next to no room"


# ---- the cluster


def partition(name, **limits):
    given = {"default": False, "minutes": None, "memory": None, "gpus": frozenset(), "preempt": "OFF"}
    return site.Partition(name, **{**given, **limits})


def test_limits_of_partitions_against_every_attempt():
    known = {
        "cpu": partition("cpu", default=True, minutes=120, memory=64000, preempt="CANCEL"),
        "gpu": partition("gpu", minutes=None, memory=200000, gpus=frozenset({"a100"})),
    }
    wanted = [
        site.Asked("index", 1, 60, 8000),
        site.Asked("index", 3, 240, 70000),
        site.Asked("lora", 3, 960, 90000, 1, None, "gpu"),
        site.Asked("semantic", 1, 60, 9000, 1, "h100", "gpu"),
        site.Asked("audit", 1, 60, 9000, 0, None, "nigth"),
        site.Asked("report", 1, 240, 9000, 0, None, "cpu,gpu"),
    ]
    found = [str(problem) for problem in site.problems(wanted, known)]
    assert len(found) == 4
    assert "semantic ask for a GPU (model: h100), partition gpu has a100" in found[0]
    assert "at most 64000 MB a node, index ask for up to 70000 from attempt 3 on" in found[1] and "max_mem=" in found[1]
    assert "at most 120 minutes, index ask for up to 240 from attempt 3 on" in found[2]
    assert "`max_runtime=120`" in found[2]
    assert "there is no partition nigth (audit)" in found[3] and "one of cpu, gpu" in found[3]


@pytest.mark.parametrize(("text", "value"), [("UNLIMITED", None), ("1-02:00:00", 1560), ("00:30:00", 30)])
def test_slurms_times(text, value):
    assert site.minutes(text) == value


def test_no_attempt_asks_for_more_than_the_site_gives(world):
    """The ceiling of the profile: later attempts double up to it."""
    from cgddi.watch.dag import ask_snakemake

    def look(dag, plan):
        return site.asked(dag.jobs, 2)

    Path("site").mkdir()
    profile = {"executor": "slurm", "jobs": 10, "default-resources": {"mem_mb": 2048, "runtime": 30}}
    Path("site/config.yaml").write_text(yaml.safe_dump(profile))
    _, free = ask_snakemake(["config.yaml"], look=look, profile="site")
    lora = {one.attempt: (one.minutes, one.memory) for one in free if one.rule == "lora"}
    assert lora == {1: (60, 25088), 2: (120, 49664), 3: (240, 74240)}
    Path("site/config.yaml").write_text(yaml.safe_dump(profile | {"config": ["max_runtime=100", "max_mem=32000"]}))
    _, bound = ask_snakemake(["config.yaml"], look=look, profile="site")
    lora = {one.attempt: (one.minutes, one.memory) for one in bound if one.rule == "lora"}
    assert lora == {1: (60, 25088), 2: (100, 32000), 3: (100, 32000)}
    assert max(one.minutes for one in bound) == 100 and "masks" not in {one.rule for one in bound}
