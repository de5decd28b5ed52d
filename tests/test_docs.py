"""Every command in the documents works: each is run here, on small files at the paths it names."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cgddi.plan.config import Config
from cgddi.plan.configdoc import describe

from tests.hub import Hub
from tests.workflow.paper_scale import ROOT

DOCUMENTS = ["README.md", "config/README.md", *(f"docs/{page.name}" for page in sorted((ROOT / "docs").glob("*.md")))]
ENDINGS = ("csv", "png", "md", "lock", "yaml")
SITE = ("cd ", "tmux", "squeue", "sinfo", "tail", "git clone", "source", "scancel", "sbatch")
"""Commands of the machine, not ours (what sbatch starts: tests/cluster/test_allocations.py)."""
HUB: dict[str, str] = {}
"""Variables of a hub on this machine and a home for what is fetched."""


def commands(document: str) -> list[str]:
    """Lines of a document's bash blocks, without comments; `a && b` counts as two."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / document).read_text(), re.S)
    lines = [re.sub(r"\s+#.*", "", line).strip() for block in blocks for line in block.splitlines()]
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


ALONE = {"docs/tutorial.md"}
"""Pages whose commands stand on each other: tests/test_docs_pages.py runs them."""
OURS = sorted(
    {c for page in DOCUMENTS if page not in ALONE for c in commands(page) if not c.startswith(SITE)},
    key=lambda command: ("--append" in command, command),
)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A hub with the models of the shipped config, small."""
    with Hub.of_config(Config()) as hub:
        HUB.update(hub.environment(tmp_path_factory.mktemp("home")))
        yield hub
    HUB.clear()


@pytest.fixture(scope="module")
def tree(tmp_path_factory, hub) -> Path:
    """A copy of the tracked tree, with DDI-shaped files at the documents' paths, and its models fetched."""
    from tests.ingest.ddi_shaped import write_ddi_shaped

    folder = tmp_path_factory.mktemp("docs") / "tree"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    write_ddi_shaped(folder / "data/ddi", photos=True)
    new = folder / "data/new"
    (new / "images").mkdir(parents=True)
    (new / "masks").mkdir()
    header, *rows = (folder / "data/ddi/ddi_metadata.csv").read_text().splitlines()
    chosen = [row for row in rows if (folder / f"data/ddi/masks/{row.split(',')[2][:-4]}.npy").exists()][:4]
    for row in chosen:
        stem = row.split(",")[2][:-4]
        # Turned by a quarter: the same picture would be reported as a duplicate, and rightly.
        from PIL import Image

        Image.open(folder / f"data/ddi/images/{stem}.png").rotate(90).save(new / f"images/9{stem[1:]}.png")
        shutil.copyfile(folder / f"data/ddi/masks/{stem}.npy", new / f"masks/9{stem[1:]}.npy")
    table = [header, *(row.replace(f",{row.split(',')[2]},", f",9{row.split(',')[2][1:]},") for row in chosen)]
    (new / "ddi_metadata.csv").write_text("\n".join(table) + "\n")
    run(folder, commands("README.md")[4])
    run(folder, "cgddi fetch")
    for page in ("docs/cluster.md", "docs/fedd.md"):
        run(folder, next(command for command in commands(page) if command.startswith("printf ")))
    make_masks(folder)
    give_images(folder)
    return folder


def give_images(folder: Path) -> None:
    """Images as cgDDI's release names them, ingested as the page on given images says; and the config it has the reader write."""
    from PIL import Image

    for name in (
        "healthy/000001.png",
        "mapped/000001_with_nevus_from_12_000002.png",
        "semantic/dark/nevus/000001_0.png",
    ):
        (folder / "data/cgddi" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 90, 60)).save(folder / "data/cgddi" / name)
    for command in commands("docs/given.md"):
        if command.startswith(("cgddi ingest synthetic", "printf ")):
            run(folder, command)


def make_masks(folder: Path) -> None:
    """One masks archive of the photos."""
    run(folder, "snakemake --cores 1 results/ddi/masks/ddi/angioma.000.tar")


def run(folder: Path, command: str) -> subprocess.CompletedProcess:
    """Run a command as a user of the documents would, in their working directory."""
    environment = {
        **os.environ,
        **HUB,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "workflow"),
    }
    done = subprocess.run(
        ["bash", "-c", command.replace("/data/", "data/")], cwd=folder, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def test_the_first_commands_are_demo_and_test():
    assert commands("README.md")[:2] == ["make demo", "make test"]


def test_ingest_is_the_first_command_on_ddi():
    assert commands("README.md")[4].startswith("cgddi ingest ddi")


@pytest.mark.parametrize("command", [c for c in OURS if c.startswith("make ")])
def test_make_targets_exist(command, tree):
    run(tree, f"{command} -n")


@pytest.mark.parametrize("command", [c for c in OURS if c.startswith("cgddi ")])
def test_cgddi_commands_run(command, tree):
    words = shlex.split(command)
    if words[1] == "lease":
        command = "cgddi lease -- true"
    if words[1] == "fetch" and "config/released.yaml" in words:  # 65 adapters: tests/diffusion/test_given.py
        command = "cgddi fetch --help"
    command = command.replace("check --profile slurm", "check")  # tests/cluster/test_bad_week.py has the cluster
    if words[1:3] == ["fedd", "convert"]:  # the published checkpoint has 2.2 GB: one of the same names, but narrow
        import torch

        from tests.fedd.original import random_original

        torch.save(random_original(32, 16).state_dict(), tree / words[words.index("--checkpoint") + 1])
        command += " --channels 32 --head-channels 16 --size 64"
    if words[1:3] == ["audit", "convert"]:  # random weights in the published files' form
        import torch
        from torchvision.models import alexnet, inception

        name = words[words.index("--checkpoint") + 1]
        network = (
            alexnet()
            if name.startswith("alexnet")
            else inception.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
        )
        torch.save(network.state_dict(), tree / name)
    assert "leaked" not in run(tree, command).stderr, "what extensions report at exit drowns what was said"


@pytest.mark.parametrize("command", [c for c in OURS if c.startswith("snakemake")])
def test_snakemake_commands_plan(command, tree):
    if "config/fedd.yaml" in command:  # the DDI-shaped files have too few malignant masks for the published subsets
        (tree / "models/adm-256-uncond").mkdir(parents=True, exist_ok=True)
        (tree / "small.yaml").write_text("fedd: {subsets: {balance: tone}}\n")
        command = command.replace("config/fedd.yaml", "config/fedd.yaml small.yaml")
    run(tree, "make -o .venv/.ready profiles >/dev/null; " + command + ("" if " -n" in command else " -n"))


@pytest.mark.parametrize("command", [c for c in OURS if c.startswith("hf ")])
def test_hub_commands_reach_the_hubs_door(command, tree):
    """Their words are understood and their folder is read: offline, the first thing they miss is the hub."""
    export = tree / shlex.split(command)[3]
    export.mkdir(parents=True, exist_ok=True)
    (export / "README.md").write_text("card")
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_TOKEN": "hf_none",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(["bash", "-c", command], cwd=tree, capture_output=True, text=True, env=environment)
    assert done.returncode and "/api/repos/create: offline mode is enabled" in done.stdout + done.stderr
    assert "--private" in command


HUB_WORDS = re.compile(r"`(hf [^`{}]+)`")
"""The hub's commands in running text and in messages."""


@pytest.mark.parametrize("name", ["auth login", "download", "upload"])
def test_the_installed_hub_client_has_what_text_and_messages_tell_of_it(name):
    sources = [*map(ROOT.joinpath, DOCUMENTS), *(ROOT / "workflow").rglob("*.py")]
    told = {" ".join(line.split()) for path in sources for line in HUB_WORDS.findall(path.read_text())}
    told |= {command for command in OURS if command.startswith("hf ")}
    mine = [line for line in told if line.startswith(f"hf {name}")]
    hub = str(Path(sys.executable).with_name("hf"))
    said = subprocess.run([hub, *name.split(), "--help"], capture_output=True, text=True, check=True).stdout
    options = {word.partition("=")[0] for line in mine for word in shlex.split(line) if word.startswith("--")}
    assert mine and options <= set(re.findall(r"--[a-z-]+", said))
    assert not [line for line in told if not line.startswith(("hf auth login", "hf download", "hf upload"))]


def test_nothing_else_is_asked_of_the_reader():
    rest = [c for c in OURS if not c.startswith(("make ", "cgddi ", "snakemake", "python -m", "printf ", "hf "))]
    assert rest == []


def test_keys_that_documents_name_exist():
    names = set()
    for document in DOCUMENTS:
        names |= set(re.findall(r"`([a-z_]+(?:\.[a-z_0-9]+)+)`", (ROOT / document).read_text()))
    keys = {name for name in names if name.split(".")[0] in Config.model_fields and name.split(".")[-1] not in ENDINGS}
    assert len(keys) > 10
    for key in keys:
        describe(key)


def test_the_smoke_test_of_the_cluster_page_plans_one_disease(tree):
    """What the page has the reader write, on top of the large config: one adapter, in results of its own."""
    (command,) = [c for c in commands("docs/cluster.md") if "smoke.yaml" in c and " -n " in c]
    text = run(tree, command).stdout
    assert re.findall(r"^Job \d+: adapter of (.*)$", text, re.M) == ["melanoma (main)"]
    assert "with results of its own in results/ddi/only-melanoma." in text


def test_tests_that_the_cluster_page_names_exist():
    texts = (path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    there = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.M)}
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/cluster.md").read_text()))
    assert len(named) > 20 and named <= there, named - there


def inline(document: str) -> list[str]:
    """Commands of ours that stand in a document's sentences, ready to be run."""
    text = re.sub(r"```bash\n.*?```", "", (ROOT / document).read_text(), flags=re.S)
    found = re.findall(r"`((?:\w+=[^ `]+ )*(?:cgddi|snakemake|make|python -m) [^`\n]*)`", text)
    return [command for command in dict.fromkeys(found) if "..." not in command]


@pytest.mark.parametrize("command", inline("docs/cluster.md"))
def test_commands_in_the_cluster_pages_sentences(command, tree):
    """Those of SLURM: tests/cluster/test_site.py."""
    words = command.split()
    if "snakemake" in words:
        run(tree, f"make -o .venv/.ready profiles >/dev/null; {command} -n")
    elif words[0] == "make":
        run(tree, f"{command} -n")
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / f"{words[2].replace('.', '/')}.py").is_file() or (ROOT / words[2] / f"{words[3]}.py").is_file()
    elif words[1] in ("why", "work", "status", "lease", "check") or "--configfile" in words:
        run(tree, f"cgddi {words[1]} --help")  # what they do: tests/watch, tests/job
    else:
        run(tree, command)


def test_every_site_line_that_the_cluster_page_names_is_in_the_profile():
    page, profile = ((ROOT / name).read_text() for name in ("docs/cluster.md", "profiles/slurm/config.yaml"))
    table = page.split("| your site wants | line |")[1].split("\n\n")[0]
    keys = set(re.findall(r"`([a-z][a-z_-]+)[:`]", table))
    assert {"slurm_partition", "tmpdir", "precommand", "set-resources", "software-deployment-method"} <= keys
    assert [key for key in keys if f"{key}:" not in profile and f"- {key}=" not in profile] == []
