"""Settings of the report."""

from cgddi.core.settings import Settings, located, setting

REVISION = 2


class ReportSettings(Settings):
    """The HTML report."""

    title: str = setting("cgDDI report", "title of the page")
    answers: list[str] = located(
        [], "csv files exported from the page `real or made?`; the report says how well its readers told them apart"
    )
