"""Exported adapters: each card's usage lines, run as they stand, draw with token and adapter."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cgddi.stages.export.adapters import export_adapters
from cgddi.stages.export.settings import ExportSettings
from PIL import Image


@pytest.mark.parametrize("kind", ["world", "world_xl"])
def test_the_usage_lines_of_an_adapters_card_draw(kind, request, tmp_path, monkeypatch):
    world = request.getfixturevalue(kind)
    files = {}
    for stage, path in (("lora", world.lora), ("embedding", world.embedding)):
        files[stage] = tmp_path / f"{stage}/main/nevus" / path.name
        files[stage].parent.mkdir(parents=True)
        files[stage].write_bytes(Path(path).read_bytes())
    folder = tmp_path / "adapters"
    made = export_adapters([str(files["lora"])], [str(files["embedding"])], folder, ExportSettings(), "owner/model")
    assert made == [folder / "main/nevus"]
    card = (made[0] / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert (head["base_model"], head["library_name"], head["license"]) == ("owner/model", "diffusers", "other")
    assert re.search(r"\| learnt from \| [1-9]\d* photos", card)
    assert "**Private.**" in card and "(main/nevus/README.md)" in (folder / "README.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", card, re.S)
    block = block.replace("owner/model", str(world.model))
    block = re.sub(r'pipe\((".*?")\)', r"pipe(\1, height=32, width=32, num_inference_steps=2, generator=SEED)", block)
    monkeypatch.chdir(made[0])

    def drawn(code: str) -> np.ndarray:
        exec(code, {"SEED": torch.Generator().manual_seed(1)})
        return np.asarray(Image.open("sample.png")).astype(int)

    picture = drawn(block)
    assert picture.shape == (32, 32, 3)
    without = "\n".join(line for line in block.splitlines() if not line.startswith("pipe.load_lora"))
    assert without != block and np.abs(drawn(without) - picture).max() > 0, "the adapter was loaded"
    token = "\n".join(line for line in block.splitlines() if "load_textual_inversion" not in line)
    assert token != block and np.abs(drawn(token) - picture).max() > 0, "the token was loaded"
