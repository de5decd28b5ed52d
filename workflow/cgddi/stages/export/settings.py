"""Settings of the export stage."""

from cgddi.core.settings import Settings, setting

REVISION = 2


class ExportSettings(Settings):
    """What leaves the lab."""

    name: str = setting("cgddi", "name of the data set on its card", pattern=r"^[A-Za-z0-9._-]+$")
    license: str = setting("other", "licence on the card; DDI is research use only, without redistribution")
    private: bool = setting(
        True, "say on the card that the data set must stay private; anything with DDI's pixels must"
    )
    kinds: tuple[str, ...] = setting(
        ("healthy", "lesion_mapped", "semantic"), "kinds of images to export; `real` adds the photos themselves"
    )
    split: str | None = setting(
        None,
        "the split whose images and adapters are exported, since what one split trains on another may test; null: the "
        "first under `splits`",
    )
    formats: tuple[str, ...] = setting(
        ("parquet", "webdataset"),
        "parquet: shards that `load_dataset` and the hub's viewer read; webdataset: tars with the same images for "
        "trainers that stream. Each holds all images, so one alone halves the space",
    )
    base_model: str | None = setting(
        None, "hub id of the base model on the adapters' cards; null: `models.base.source`, where that is one"
    )
