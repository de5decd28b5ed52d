"""Settings of the export stage."""

from pydantic import Field

from cgddi.core.settings import Settings

REVISION = 1


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
