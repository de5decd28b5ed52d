"""What a table of generated images calls things: a column map, as a small YAML file (those shipped: `maps/`)."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

import yaml
from pydantic import ValidationError, field_validator

from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.core.settings import Settings, setting

Map = TypeVar("Map", bound=Settings)

FIELDS = ("kind", "disease", "skin_tone", "malignant", "donor", "canvas", "generator")
"""What an image can be told of."""
NONE = "none"
"""Cell of a donor, canvas or generator that there is not; an empty one is not known."""
SHIPPED = Path(__file__).with_name("maps")

Field_ = Literal["kind", "disease", "skin_tone", "malignant", "donor", "canvas", "generator"]


class Rule(Settings):
    """A special case: where all it asks for is true, it sets cells. Later rules come over earlier ones."""

    path: str | None = setting(
        None, "regular expression, found in the image's path (or its key in a shard); named groups become columns"
    )
    when: dict[str, str] = setting({}, "column -> regular expression of its whole cell")
    set: dict[Field_, str] = setting({}, "field -> its value, in which {column} stands for that column's cell")

    @field_validator("path")
    @classmethod
    def _expression(cls, path: str | None) -> str | None:
        try:
            re.compile(path or "")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from error
        return path


class ColumnMap(Settings):
    """How a release says what its images show and descend from."""

    about: str = setting("", "what it is for")
    image: str | None = setting(None, "column with the image or its file; none for a folder or shards")
    columns: dict[Field_, str] = setting({}, "field -> column")
    rules: tuple[Rule, ...] = setting((), "special cases, in order")
    values: dict[Field_, dict[str, str]] = setting({}, "field -> cell -> what it means")
    tone_of: Literal["canvas", "donor"] | None = setting(
        None, "where no skin tone is told: an image has that of this photo, by the image sheet"
    )
    learnt_from: dict[str, str] = setting(
        {}, "generator (or `*`) -> what it was trained on: none, unknown, cohort:NAME, or a file of image ids"
    )

    def fields(self, path: str, cells: Mapping[str, str]) -> dict[str, str]:
        """Fields of one image."""
        cells = dict(cells)
        found = {field: cells.get(column, "") for field, column in self.columns.items()}
        for rule in self.rules:
            match = re.search(rule.path, path) if rule.path else None
            if rule.path and match is None:
                continue
            if all(re.fullmatch(wanted, cells.get(column, "")) for column, wanted in rule.when.items()):
                named = {name: cell or "" for name, cell in match.groupdict().items()} if match else {}
                cells |= named
                found |= {field: cell for field, cell in named.items() if field in FIELDS}
                found |= {field: _filled(text, cells) for field, text in rule.set.items()}
        return {f: self.values.get(f, {}).get(cell := found.get(f, "").strip(), cell) for f in FIELDS}

    @property
    def wanted(self) -> set[str]:
        """Columns that the images' table must have."""
        return {*self.columns.values(), *([self.image] if self.image else [])}


def _filled(text: str, cells: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: cells.get(match[1], ""), text)


def read_map(name: str) -> ColumnMap:
    """A column map: the name of a shipped one (`cgddi`, `synderm`), or a YAML file; see `read_yaml_map`."""
    return read_yaml_map(ColumnMap, SHIPPED, name)


def read_yaml_map(model: type[Map], folder: Path, name: str) -> Map:
    """A map of option `--map`.

    Raises:
        UserError: no such map, or no YAML.
        InvalidInput: keys or values that a map has not.
    """
    shipped = sorted(path.stem for path in folder.glob("*.yaml"))
    path = folder / f"{name}.yaml" if name in shipped else Path(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--map {name}: no such file. Shipped maps are {', '.join(shipped)}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--map {path}: is no YAML ({' '.join(str(error).split())[:200]}).") from error
    try:
        return model.model_validate(values or {})
    except ValidationError as error:
        keys = f"A map has the keys {', '.join(model.model_fields)}."
        raise InvalidInput(
            [
                Problem(str(path), e["msg"], keys, key=".".join(str(part) for part in e["loc"] if part != "[key]"))
                for e in error.errors()
            ]
        ) from error
