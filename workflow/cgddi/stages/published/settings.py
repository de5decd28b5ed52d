"""Settings of the page that sets published figures beside ours."""

from typing import Literal

from cgddi.core.settings import Settings, setting

REVISION = 1


class PublishedSettings(Settings):
    """Published figures beside ours (`config/paper/`)."""

    table: Literal["ddi", "sources", "rarity", "quality", "f17k", "cross", "fedd"] | None = setting(
        None,
        "published table that the target `tables` makes: its page, tables and report then lie in `tables/<name>/`, so "
        "that several share the images and classifiers of one results folder; null: every table that this run has figures of",
    )
