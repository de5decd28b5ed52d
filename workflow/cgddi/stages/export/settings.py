"""Settings of the export stage."""

from pydantic import Field

from cgddi.core.settings import Settings

REVISION = 2


class ExportSettings(Settings):
    """What leaves the lab."""

    name: str = Field("cgddi", pattern=r"^[A-Za-z0-9._-]+$", description="name of the data set on its card")
    license: str = Field("other", description="licence on the card; DDI is research use only, without redistribution")
    private: bool = Field(
        True, description="say on the card that the data set must stay private; anything with DDI's pixels must"
    )
    kinds: tuple[str, ...] = Field(
        ("healthy", "lesion_mapped", "semantic"),
        description="kinds of images to export; `real` adds the photos themselves",
    )
    split: str | None = Field(
        None,
        description="the split whose images and adapters are exported, since what one split trains on another may test; null: the "
        "first under `splits`",
    )
    formats: tuple[str, ...] = Field(
        ("parquet", "webdataset"),
        description="parquet: shards that `load_dataset` and the hub's viewer read; webdataset: tars with the same images for "
        "trainers that stream. Each holds all images, so one alone halves the space",
    )
    base_model: str | None = Field(
        None,
        description="hub id of the base model on the adapters' cards; null: `models.base.source`, where that is one",
    )
