"""Why a photo goes on without a mask, in the words of the later stages' records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def why_unmasked(row: Mapping[str, Any]) -> str:
    """Why a photo of a masks archive has no mask to go on with.

    Args:
        row: its manifest row.
    """
    flags = ", ".join(row.get("flags") or ())
    if "rejected.mask.png" in row["members"]:
        return f"its mask by {row['mask_source']} is not used ({flags})"
    return f"it has no mask ({flags})" if flags else "it has no mask"
