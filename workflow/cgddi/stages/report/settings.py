"""Settings of the report."""

from pydantic import Field

from cgddi.core.settings import Settings, located

REVISION = 2


class ReportSettings(Settings):
    """The HTML report."""

    title: str = Field("cgDDI report", description="title of the page")
    answers: list[str] = located(
        [],
        description="csv files exported from the page `real or made?`; the report says how well its readers told them apart",
    )
