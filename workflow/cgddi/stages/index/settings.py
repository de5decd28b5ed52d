"""Settings of the index stage."""

from typing import Literal

from cgddi.core.settings import Settings, setting

REVISION = 3


class IndexSettings(Settings):
    """What may stand in a split's index."""

    drop_touching: tuple[Literal["donor", "canvas", "own_canvas", "generator", "segmenter"], ...] = setting(
        ("donor", "canvas", "generator", "segmenter"),
        "Leave a synthetic image out when this ancestor of it is not a training image of the split; segmenter: an "
        "image that taught the segmenter behind a mask it was made with; own_canvas: a held-out canvas of a sample, where its "
        "photo has the sample's disease (the published rule is `[donor, own_canvas]`). Leaving `generator` away keeps images of "
        "generators that saw test images, as the published code did; the leakage gate then fails unless `audit.leakage_gate` is "
        "`report`, and every table says so.",
    )
