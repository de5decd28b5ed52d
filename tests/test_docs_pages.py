"""The pages a newcomer reads: every message of the troubleshooting page stands in the code, the tutorial's commands run one
after the other, and the README's pictures are there and small."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cgddi.core.images import TONES
from cgddi.core.source import ROOT
from cgddi.plan.config import Config
from PIL import Image

from tests import readme_pictures
from tests.core.procedural import lesion, skin
from tests.hub import Hub

MESSAGES = re.findall(r"^\| `(.+?)` \| ", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
HOLE = "\N{HORIZONTAL ELLIPSIS}"


def text_of(node: ast.expr) -> str:
    """A string as it is written, with a hole for each value that is filled in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(text_of(v) if isinstance(v, ast.Constant) else HOLE for v in node.values)


@pytest.fixture(scope="module")
def texts() -> str:
    """Every string of the code that a person may see."""
    code = [*(ROOT / "workflow").rglob("*.py")]
    found = [
        text_of(node)
        for path in code
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant | ast.JoinedStr)
    ]
    rules = [path.read_text() for path in (ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk"))]
    return "\n".join(found + rules)


@pytest.mark.parametrize("message", MESSAGES)
def test_every_message_of_the_troubleshooting_page_stands_in_the_code(message, texts):
    """Verbatim, with one hole where a value is filled in; a hole at its ends may be any."""
    assert message.strip(f"{HOLE} ") in texts


def test_the_troubleshooting_page_has_enough_of_them():
    assert len(MESSAGES) == len(set(MESSAGES)) > 25


def words(block: str) -> list[str]:
    return [re.sub(r"\s+#.*", "", line).strip() for line in block.splitlines() if line.strip()]


def write_photos(study: Path, folder: str, numbers: range, masks: bool) -> None:
    """Small procedural photos of two diseases in three tones, their table and their masks."""
    table = ["image_id,file,disease,skin_tone,malignant,group"]
    for k in numbers:
        tone = TONES[k // 2 % 3]
        photo, mask, _ = lesion(skin(k, size=128, tone=tone), seed=k)
        disease, malignant = (("melanoma", "True"), ("seborrheic keratosis", "False"))[k % 2]
        for place, picture in ((folder, photo), *([("masks", mask)] if masks else [])):
            (study / place).mkdir(exist_ok=True)
            Image.fromarray(picture).save(study / place / f"p{k:03d}.png")
        table.append(f"p{k:03d},p{k:03d}.png,{disease},{tone},{malignant},patient-{k}")
    (study / f"{folder}.csv").write_text("\n".join(table) + "\n")


@pytest.mark.slow
def test_the_tutorial_runs_from_the_first_command_to_the_last(tmp_path):
    """As a newcomer types it; runs are planned only, and the clone and its environment are there already."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/tutorial.md").read_text(), re.S)
    lines = [line for block in blocks for line in words(block)]
    assert lines[0].startswith("git clone") and lines[1:4] == ["cd cgddi", "make env", "source .venv/bin/activate"]
    assert lines[4:6] == ["cgddi init ../study", "cd ../study"]
    for name in subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split():
        if (ROOT / name).is_file():
            (tmp_path / "cgddi" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / "cgddi" / name)
    with Hub.of_config(Config()) as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home")}
        environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment["PYTHONPATH"] = str(tmp_path / "cgddi/workflow")

        def typed(folder: str, *commands: str) -> None:
            script = "\n".join(["set -e", *commands])
            done = subprocess.run(
                ["bash", "-c", script], cwd=tmp_path / folder, capture_output=True, text=True, env=environment
            )
            assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"

        typed("cgddi", lines[4])
        study = tmp_path / "study"
        write_photos(study, "photos", range(36), masks=True)
        write_photos(study, "more", range(36, 38), masks=False)
        rest = [f"{line} -n" if line.startswith("snakemake") and " -n" not in line else line for line in lines[6:]]
        assert sum(line.startswith("cgddi ingest") for line in rest) == 2
        typed("study", *rest)
    assert len((study / "config/images.csv").read_text().splitlines()) == 39


def test_the_readmes_pictures_are_there_and_small():
    page = (ROOT / "README.md").read_text()
    named = re.findall(r"!\[[^]]+\]\((docs/pictures/\w+\.webp)\)", page)
    assert sorted(named) == sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs/pictures").iterdir())
    assert sum((ROOT / name).stat().st_size for name in named) < readme_pictures.LIMIT
    for name in named:
        assert Image.open(ROOT / name).width >= 900
    drawn = readme_pictures.healed()
    kept = Image.open(ROOT / "docs/pictures/heal.webp")
    assert drawn.size == kept.size
