"""Each file in envs/ holds what its stages need: the shrunken toy world, masks of the segmenter included, runs under
`--software-deployment-method conda`, each job in a plain venv of its file's pins. Conda itself is stood in for by a script."""

import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import small_world
from tests.workflow.paper_scale import ROOT, snakemake
from tests.workflow.test_fedd import configuration

CONDA = f"""#!{sys.executable}
import json, pathlib, subprocess, sys, yaml

words = sys.argv[1:]
if words[:1] == ["info"]:
    print(json.dumps({{"conda_prefix": str(pathlib.Path(__file__).parents[1]), "platform": "linux-64"}}))
elif words == ["--version"]:
    print("conda 24.9.2")
elif words[:1] == ["config"]:
    print(json.dumps({{"get": {{"channel_priority": "strict"}}}}))
elif words[:2] == ["env", "create"]:
    file, prefix = (next(w.split("=", 1)[-1] if "=" in w else words[i + 1] for i, w in enumerate(words) if w.startswith(name))
                    for name in ("--file", "--prefix"))
    pins = next(part["pip"] for part in yaml.safe_load(open(file))["dependencies"] if isinstance(part, dict))
    subprocess.run([sys.executable, "-m", "venv", prefix], check=True)
    subprocess.run([f"{{prefix}}/bin/python", "-m", "pip", "install", "--quiet", "--no-compile", *pins], check=True)
elif words[:1] != ["clean"]:
    sys.exit(f"conda {{' '.join(words)}}: not known to this stand-in")
"""
CHANGES = {
    "sample_min_images": 2,
    "runs": {"methods": ["baseline"], "regimes": ["real", "synthetic", "synthetic_real"], "seeds": [0]},
}


@pytest.mark.slow
def test_the_stages_run_in_the_environments_of_their_files(tmp_path):
    folder = small_world(tmp_path / "work")
    (folder / "config.yaml").write_text(yaml.safe_dump(configuration(CHANGES)))
    (tmp_path / "conda/bin").mkdir(parents=True)
    (tmp_path / "conda/bin/activate").write_text('export PATH="$1/bin:$PATH"\n')
    (tmp_path / "conda/bin/conda").write_text(CONDA)
    (tmp_path / "conda/bin/conda").chmod(0o755)
    run = ("--configfile", "config.yaml", "--cores", "2", "--sdm", "conda", "--conda-prefix", str(tmp_path / "envs"))
    path = f"{tmp_path}/conda/bin:{Path(sys.executable).parent}:/usr/bin:/bin"
    snakemake(folder, *run, "--resources", "gpu=1", "--", "all", "export", env={"PATH": path})
    made = {yaml.safe_dump(yaml.safe_load(file.read_text())) for file in (tmp_path / "envs").glob("*.yaml")}
    assert made == {yaml.safe_dump(yaml.safe_load(file.read_text())) for file in (ROOT / "envs").glob("*.yaml")}
    assert [*folder.glob("results/toy-fedd/**/report/index.html")] and [
        *folder.glob("results/toy-fedd/**/export/README.md")
    ]
