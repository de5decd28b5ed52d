"""Settings of the export stage."""

from pydantic import BaseModel, ConfigDict, Field

REVISION = 1


class ExportSettings(BaseModel):
    """What leaves the lab."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("cgddi", pattern=r"^[A-Za-z0-9._-]+$", description="name of the data set on its card")
    license: str = Field("other", description="licence on the card; DDI is research use only, without redistribution")
    private: bool = Field(
        True, description="say on the card that the data set must stay private; anything with DDI's pixels must"
    )
    kinds: tuple[str, ...] = Field(
        ("healthy", "lesion_mapped", "semantic"),
        description="kinds of images to export; `real` adds the photos themselves",
    )
