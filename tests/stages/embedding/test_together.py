"""Several tokens in one run: each is what it would be alone, and a killed run gives the same bytes."""

from __future__ import annotations

import json

import pytest
import torch
from cgddi import cli
from cgddi.core.errors import UserError
from cgddi.core.images import decode_png
from cgddi.diffusion import fit
from cgddi.diffusion.tokens import read_embedding
from cgddi.stages.embedding.train import TokenJob, train_tokens

from tests.diffusion import tiny

NAME = "learned_embeds.safetensors"


def jobs(world, folder, **settings):
    """Three concepts with some photos in common."""
    made = []
    for number, slug in enumerate(("one", "two", "three")):
        images = world.images[number : number + 2]
        spec = tiny.spec_for("embedding", world.model, images, slug, **{**tiny.TI, "log_every": 2, **settings})
        made.append(TokenJob(spec, [world.root / "masks.tar"], folder / slug))
    return made


@pytest.mark.parametrize("which, vectors", [("world", 2), ("world_xl", 1)])
def test_together_equals_alone(which, vectors, request, tmp_path):
    world = request.getfixturevalue(which)
    options = {"vectors": vectors, "validate_every": 3}
    train_tokens(jobs(world, tmp_path / "together", **options))
    for job in jobs(world, tmp_path / "alone", **options):
        train_tokens([job])
        alone, together = (read_embedding(tmp_path / how / job.slug / NAME)[1] for how in ("alone", "together"))
        for a, b in zip(alone, together, strict=True):
            assert a.shape == (vectors, tiny.HIDDEN) and torch.allclose(a, b, atol=1e-4)
        lines = [
            [json.loads(line) for line in (tmp_path / how / job.slug / "metrics.jsonl").read_text().splitlines()]
            for how in ("alone", "together")
        ]
        for a, b in zip(*lines, strict=True):
            assert a == pytest.approx(b, abs=1e-4)
    first, second = (read_embedding(tmp_path / "together" / slug / NAME)[1] for slug in ("one", "two"))
    assert (first[0] - second[0]).abs().max() > 1e-3


def test_a_killed_run_gives_the_same_bytes(world, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    train_tokens(jobs(world, tmp_path / "undisturbed"))
    real, calls = fit.Fit.update, iter(range(1, 100))

    def update(self, batch):
        if next(calls) == 5:
            raise Killed
        return real(self, batch)

    monkeypatch.setattr(fit.Fit, "update", update)
    with pytest.raises(Killed):
        train_tokens(jobs(world, tmp_path / "killed"), state=tmp_path / "state")
    train_tokens(jobs(world, tmp_path / "killed"), state=tmp_path / "state")
    for slug in ("one", "two", "three"):
        for name in (NAME, "record.json", "metrics.jsonl"):
            assert (tmp_path / "killed" / slug / name).read_bytes() == (
                tmp_path / "undisturbed" / slug / name
            ).read_bytes()
    assert not list((tmp_path / "state").iterdir())


def test_the_command_takes_a_pack(world, tmp_path):
    pack = jobs(world, tmp_path)
    argv = ["embedding", "--spec", json.dumps({"pack": [job.spec for job in pack]}), "--threads", "1"]
    argv += ["--photos", str(world.root / "masks.tar"), "--output-dir", *(str(job.output) for job in pack)]
    assert cli.main(argv) == 0
    assert all((job.output / NAME).is_file() for job in pack)


def test_grids_of_each_token_while_it_is_learnt_and_at_the_end(world, tmp_path):
    options = {"grid_every": 4, "grid_steps": 2, "grid_columns": 2}
    train_tokens(jobs(world, tmp_path / "together", **options), curves=tmp_path / "logs/pack")
    train_tokens(jobs(world, tmp_path / "alone", **options)[1:2], curves=tmp_path / "logs/alone")
    pictures = {p.name: decode_png(p.read_bytes()).astype(int) for p in (tmp_path / "logs").glob("*.png")}
    of_pack = {f"pack.{slug}-{n}.png" for slug in ("one", "two", "three") for n in ("000004", "000006")}
    assert set(pictures) == of_pack | {"alone.two-000004.png", "alone.two-000006.png"}
    assert pictures["pack.two-000006.png"].shape == (3 * tiny.SIZE + 4, 2 * tiny.SIZE + 2, 3)
    assert abs(pictures["pack.two-000006.png"] - pictures["alone.two-000006.png"]).max() <= 2
    assert abs(pictures["pack.two-000006.png"] - pictures["pack.two-000004.png"]).max() > 0
    undrawn = jobs(world, tmp_path / "undrawn", **options, validate_every=2)
    train_tokens(undrawn)
    for job in undrawn:
        drawn = tmp_path / "together" / job.slug / NAME
        rows, others = (read_embedding(path)[1][0] for path in (job.output / NAME, drawn))
        assert torch.equal(rows, others), "looking changed the training"


def test_settings_must_be_equal(world, tmp_path):
    pack = [jobs(world, tmp_path)[0], jobs(world, tmp_path, steps=3)[1]]
    with pytest.raises(UserError, match="equal settings"):
        train_tokens(pack)
