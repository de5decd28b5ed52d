"""The engine's shared worlds."""

from tests.diffusion.conftest import world, world_xl

__all__ = ["world", "world_xl"]
