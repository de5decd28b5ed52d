"""Sheets for the tests of reading them."""

import pytest
from cgddi.core.errors import InvalidInput
from cgddi.plan.sheets import COLUMNS, load_sheets

DISEASES = "raw,concept\nbad-mole,bad mole\ngood-mole,good mole\nworse-mole,bad mole\n"


GOOD = {
    "image_id": "a1",
    "file": "a1.png",
    "cohort": "ddi",
    "disease": "bad-mole",
    "skin_tone": "12",
    "malignant": "True",
    "mask": "",
    "group": "",
}


def sheet(*rows, columns=COLUMNS, separator=","):
    lines = [separator.join(columns)]
    for changes in rows:
        cells = {**GOOD, **changes}
        lines.append(separator.join('"' + cells[column].replace('"', '""') + '"' for column in columns))
    return "\n".join(lines) + "\n"


def load(text, encoding="utf-8", diseases="diseases.csv"):
    with open("images.csv", "wb") as handle:
        handle.write(text.encode(encoding))
    return load_sheets("images.csv", diseases)


def problems(text, **kwargs):
    with pytest.raises(InvalidInput) as caught:
        load(text, **kwargs)
    return caught.value.problems
