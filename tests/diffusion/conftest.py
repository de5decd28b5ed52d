"""Models, archives and finished runs shared by the engine's tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cgddi.diffusion.weights import read_tensors, write_tensors
from cgddi.stages.lora.train import LoraJob, train_lora

from tests.diffusion import tiny


@dataclass(frozen=True)
class World:
    """Where things lie."""

    root: Path
    model: Path
    images: list[str]
    canvases: list[str]

    @property
    def embedding(self) -> Path:
        return self.root / "embedding/learned_embeds.safetensors"

    @property
    def lora(self) -> Path:
        return self.root / "lora/pytorch_lora_weights.safetensors"

    def token(self, slug: str) -> Path:
        """This world's learned token, under a concept's name."""
        tensors, facts = read_tensors(self.embedding)
        if facts["token"] == f"<{slug}>":
            return self.embedding
        tensors = {name.replace("<nevus>", f"<{slug}>"): rows for name, rows in tensors.items()}
        write_tensors(self.root / f"{slug}.safetensors", tensors, {**facts, "token": f"<{slug}>"})
        return self.root / f"{slug}.safetensors"

    def job(
        self,
        slug: str = "nevus",
        output: str = "lora",
        embedding: Path | None = None,
        concept: str | None = None,
        **settings,
    ) -> LoraJob:
        """A LoRA job on this world's archives; `concept`: by that name, from this world's learned token."""
        slug = concept or slug
        spec = tiny.spec_for("lora", self.model, self.images, slug, **{**tiny.LORA, **settings})
        token = embedding or self.token(slug)
        return LoraJob(spec, [self.root / "masks.tar"], [self.root / "canvases.tar"], None, token, self.root / output)


def make_world(root: Path, **model) -> World:
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    return World(
        root,
        tiny.make_model(root / "model", **model),
        tiny.make_photos(root / "masks.tar"),
        tiny.make_canvases(root / "canvases.tar"),
    )


def train(world: World) -> World:
    """Train a token and an adapter in a world."""
    spec = tiny.spec_for("embedding", world.model, world.images, **tiny.TI)
    tiny.train_embedding(spec, [world.root / "masks.tar"], world.root / "embedding")
    train_lora(world.job())
    return world


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """A random-weight SD with v-prediction and zero-terminal SNR, and a token and adapter trained on it."""
    return train(make_world(tmp_path_factory.mktemp("sd")))


@pytest.fixture(scope="session")
def world_xl(tmp_path_factory) -> World:
    """The same for SDXL, epsilon prediction."""
    return train(make_world(tmp_path_factory.mktemp("xl"), xl=True, prediction="epsilon", zero_snr=False))
