"""Settings of the report."""

from pydantic import BaseModel, ConfigDict, Field

REVISION = 1


class ReportSettings(BaseModel):
    """The HTML report."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str = Field("cgDDI report", description="title of the page")
    images_per_cell: int = Field(4, ge=1, le=20, description="pictures per concept and tone on the contact sheets")
    thumbnail: int = Field(96, ge=32, le=512, description="width of a picture on the page in pixels")
