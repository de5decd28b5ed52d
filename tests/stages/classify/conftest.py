"""The uneven set of pictures that tests of the recipe share."""

from __future__ import annotations

import pandas as pd
import pytest

from tests.stages.classify.cells import write_table


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> pd.DataFrame:
    """Rows of `cells.CELLS`, with pictures."""
    return write_table(tmp_path_factory.mktemp("cells"))
