"""Seeds that come from names, never from order: adding work changes no existing image."""

import hashlib


def seed_for(project_seed: int, *names: object) -> int:
    """Seed of one random draw, from the project's seed and the names of what is drawn.

    Args:
        project_seed: the project's seed (config key `seed`).
        names: what the draw belongs to, e.g. ("semantic", concept, canvas, tone, repeat).

    Returns:
        A non-negative integer below 2**63, good for numpy.random.default_rng and torch.Generator.manual_seed.
    """
    text = "\x1f".join(str(part) for part in (project_seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
