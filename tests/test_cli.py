"""The command line as a whole: names, help, version, and how it ends."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cgddi
import numpy as np
import pytest
from cgddi.cli import ASKED, COMMANDS, STAGES, main
from cgddi.core.images import LESION, SKIN
from cgddi.core.source import ROOT
from cgddi.plan.config import Config, load_config
from PIL import Image
from snakemake_logger_plugin_cgddi import own_message

from tests.hub import Hub


def run(*arguments: str, cwd=None) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "cgddi.cli", *arguments], capture_output=True, text=True, cwd=cwd)


def test_a_dozen_commands_for_people_and_one_for_each_stage():
    assert len(ASKED) <= 12
    folders = {path.parent.name for path in (ROOT / "workflow/cgddi/stages").glob("*/settings.py")}
    assert folders <= STAGES.keys() and folders <= Config.model_fields.keys()


@pytest.mark.parametrize("name", ASKED)
def test_each_command_that_a_person_asks_explains_itself(name, capsys):
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(COMMANDS[name][0]).main(["--help"])
    assert caught.value.code == 0 and f"usage: cgddi {name}" in capsys.readouterr().out


def test_help_and_version(capsys):
    assert main(["--help"]) == 0 and all(f"\n  {name} " in capsys.readouterr().out for name in ("init",))
    assert main(["--version"]) == 0 and capsys.readouterr().out == f"cgddi {cgddi.__version__}\n"
    assert f"\n## {cgddi.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {cgddi.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["statis"]) == 2 and capsys.readouterr().err == "cgddi: no command 'statis'. Did you mean status?\n"


@pytest.mark.parametrize("command", ["config --all", "--help"])
def test_a_reader_that_has_seen_enough_is_no_error(command):
    """More than a pipe holds is written to a reader that closes after a line."""
    words = shlex.join([sys.executable, "-m", "cgddi.cli", *command.split()])
    done = subprocess.run(["bash", "-c", f"{words} | (sleep 1; true)"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    done = subprocess.run(["bash", "-c", f"{words} | head -1"], capture_output=True, text=True)
    assert done.stderr == "" and done.stdout.count("\n") == 1


def test_a_mistake_amid_a_progress_bar_stands_on_a_line_of_its_own(tmp_path):
    """Whoever reads a job's log looks for that line: glued to the bar, "it said nothing" was all that a person was told."""
    code = """
import sys, types
from tqdm import tqdm
from cgddi import cli
from cgddi.core.errors import UserError
def main(argv):
    bar = tqdm(total=9, desc="healthy", mininterval=0)
    bar.update(2)
    raise UserError("x.tar: is cut off. Delete it.")
sys.modules["stage"] = types.SimpleNamespace(main=main)
cli.COMMANDS["healthy"] = ("stage", "")
sys.exit(cli.main(["healthy"]))
"""
    with open(tmp_path / "log", "w") as log:
        done = subprocess.run(
            [sys.executable, "-c", code], stderr=log, env={**os.environ, "PYTHONPATH": "workflow"}, cwd=ROOT
        )
    assert done.returncode == 2 and "2/9" in (tmp_path / "log").read_text()
    assert own_message(str(tmp_path / "log")) == "x.tar: is cut off. Delete it."


def test_init_writes_a_folder_whose_next_commands_work(tmp_path):
    said = run("init", "my study", cwd=tmp_path)
    folder = tmp_path / "my study"
    assert said.returncode == 0, said.stderr
    assert len((folder / "config/config.yaml").read_text().splitlines()) <= 15
    assert load_config(folder / "config/config.yaml").models == Config().models
    commands = re.findall(r"^    (.*)$", said.stdout, re.M)
    assert [shlex.split(line)[0] for line in commands] == ["cd", *["cgddi"] * 3, "snakemake"]
    header, first, second = (folder / "photos.csv").read_text().splitlines()
    rows = [header]
    for number in range(48):
        row = (second if number % 3 else first).split(",")
        row[0], row[1], row[5], row[6] = f"p{number}", f"p{number}.jpg", f"p{number}.png", f"patient-{number}"
        row[3] = ("light", "medium", "dark")[number // 3 % 3]
        rows.append(",".join(row))
        noise = Image.effect_noise((64, 64), 10 + 5 * number).convert("RGB")
        noise.save(folder / "photos" / row[1])
        mask = np.full((64, 64), SKIN, np.uint8)
        mask[20:40, 20:40] = LESION
        Image.fromarray(mask).save(folder / "photos" / row[5])
    (folder / "photos.csv").write_text("\n".join(rows) + "\n")
    script = "\n".join(["set -e", *commands])
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    with Hub.of_config(Config()) as hub:
        env = {"PATH": path, **hub.environment(tmp_path / "home")}
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert "48 photos" in done.stdout and re.search(r"^classify +9$", done.stdout, re.M)
    again = run("init", "my study", cwd=tmp_path)
    assert again.returncode == 2 and "is there. Name another folder" in again.stderr
