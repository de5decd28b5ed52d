"""A run over hostile names, by a user with secrets: what it leaves on the disk, and where."""

import os
import re
import stat

from cgddi.core.archive import Archive

from tests.workflow.conftest import RUN, SECRETS
from tests.workflow.dryrun import dry_run
from tests.workflow.hostile import DISEASE, FILES
from tests.workflow.paper_scale import snakemake
from tests.workflow.test_incremental import sheet, write_sheet


def test_hostile_names_went_through_the_whole_run_as_data(finished):
    """Each hostile photo gave its image, its healthy image and its transplants; the hostile disease its adapter and samples."""
    results = finished / "results/toy"
    rows = [row for row in sheet(finished) if os.path.basename(row["file"]) in FILES]
    assert len(rows) == len(FILES)
    healthy = {row["key"] for path in (results / "healthy").rglob("*.tar") for row in Archive(path).rows}
    donors = {row["donor"] for path in (results / "lesion_mapped").rglob("*.tar") for row in Archive(path).rows}
    assert {row["image_id"] for row in rows} <= healthy & donors
    assert any(row["disease"] == DISEASE for row in sheet(finished))
    assert (results / "lora/main/button-naevule/pytorch_lora_weights.safetensors").is_file()
    assert "touch pwned" not in (results / "report/index.html").read_text().replace("$(touch pwned) `touch pwned`", "")


def test_no_shell_acted_on_a_name(finished):
    """Nothing called `pwned` exists, and results bear names of plain characters only."""
    assert not [path for path in finished.parent.rglob("*pwned*") if path.name not in FILES]
    odd = [path for path in (finished / "results").rglob("*") if not re.fullmatch(r"[A-Za-z0-9_.-]+", path.name)]
    assert odd == []


def test_results_have_ordinary_permissions(finished):
    """What the user's umask says: no file is private to a process or open to all."""
    mask = os.umask(0)
    os.umask(mask)
    for path in [*(finished / "results").rglob("*"), *(finished / ".cache").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o777 if path.is_dir() else 0o666) & ~mask, f"{path}: {mode:o}"


def test_nothing_is_written_at_home(finished):
    left = [str(path.relative_to(finished.parent)) for path in (finished.parent / "home").rglob("*") if path.is_file()]
    assert left == []


def test_no_secret_is_in_any_file(finished):
    """Logs, records, manifests, pages, and Snakemake's own metadata."""
    secrets = [value.encode() for value in SECRETS.values()]
    for part in ("results", ".snakemake", ".cache"):
        for path in (finished / part).rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert not [secret for secret in secrets if secret in data], path


REFUSED = [
    ("image_id", "../x"),
    ("image_id", "a;b"),
    ("image_id", "$(touch pwned)"),
    ("image_id", "x" * 300),
    ("cohort", "t\u043ey"),
    ("cohort", "a'b"),
    ("file", "photo\n.png"),
    ("file", "photo\u202f.png"),
    ("file", "photo{wildcards}.png"),
    ("mask", "{0}.npy"),
    ("group", "g\u202eroup"),
]


def test_names_that_would_be_a_path_are_refused_with_row_column_and_remedy(copy):
    """All of them at once, one in each of the sheet's first rows; the run does not start."""
    rows = sheet(copy)
    for row, (column, cell) in zip(rows, REFUSED, strict=False):
        row[column] = cell
    write_sheet(copy, rows)
    done = snakemake(copy, *RUN, "-n", check=False)
    text = done.stdout + done.stderr
    assert done.returncode and "Traceback" not in text
    found = re.findall(r"row (\d+), column (\w+): .*Rename", text)
    # The line break in row 8's name takes a line of the file, so what follows stands a line further down.
    assert found == [(str(line + (line > 8)), column) for line, (column, _) in enumerate(REFUSED, start=2)]


def test_no_name_of_a_sheet_stands_in_a_command(copy):
    """They stand in specs, which commands name by ids and hashes alone."""
    (copy / "results/toy/masks").rename(copy / "gone")
    commands = re.findall(r"-m cgddi.cli masks.*?2>.*?$", dry_run(copy, *RUN, "-p", "--until", "masks"), re.M | re.S)
    assert commands and all(re.fullmatch(r"[\w\s./>\\-]+", command) for command in commands)
    specs = {re.search(r"--spec (\S+)", command)[1] for command in commands}
    assert len(specs) == len(commands) and all((copy / spec).is_file() for spec in specs)
