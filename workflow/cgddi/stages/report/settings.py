"""Settings of the report."""

from pydantic import Field

from cgddi.core.settings import Settings

REVISION = 1


class ReportSettings(Settings):
    """The HTML report."""

    title: str = Field("cgDDI report", description="title of the page")
