"""IoU from pixel counts: pooled, by tone, undefined where it must be, and with paired intervals."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from cgddi.core.bootstrap import Bootstrap
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.fedd.iou import NAMES, compare_rows, gap_row, iou_rows, iou_values, read_counts

HEAD = "image_id,tone,malignant,class,intersection,union,predicted,truth\n"


def table(path, images, segmenter):
    """A test.csv: per image (id, tone) masks drawn by name; `segmenter(truth, tone, rng)` predicts."""
    lines = [HEAD]
    for image, tone in images:
        rng = np.random.default_rng(sum(map(ord, image)))
        truth = np.full((16, 16), 4)
        truth[3 : 6 + rng.integers(4), 4:10] = 1
        predicted = segmenter(truth.copy(), tone, rng)
        for number, name in enumerate(NAMES):
            p, t = predicted == number, truth == number
            counts = (p & t).sum(), (p | t).sum(), p.sum(), t.sum()
            lines.append(
                f"{image},{tone},{'true' if image[-1] in '13579' else 'false'},{name},{','.join(map(str, counts))}\n"
            )
    path.write_text("".join(lines))
    return read_counts(path, {})


IMAGES = [(f"{tone}{k}", tone) for tone in TONES for k in range(10)]


def eroded(share):
    """Misses lesion pixels: the given share on dark skin, a tenth elsewhere."""

    def predict(truth, tone, rng):
        lost = rng.random(truth.shape) < (share if tone == "dark" else 0.1)
        truth[(truth == 1) & lost] = 4
        return truth

    return predict


def test_values_by_hand(tmp_path) -> None:
    """Two images: 6 of 10 and 1 of 2 lesion pixels found; pooled 7/12, background in neither: undefined and out of the mean."""
    lines = [HEAD]
    counts = {
        "a": {"lesion": (6, 10, 6, 10), "skin": (90, 94, 94, 90)},
        "b": {"lesion": (1, 2, 1, 2), "skin": (98, 99, 99, 98)},
    }
    for image, classes in counts.items():
        for name in NAMES:
            found = classes.get(name, (0, 0, 0, 0))
            lines.append(f"{image},{'light' if image == 'a' else 'dark'},true,{name},{','.join(map(str, found))}\n")
    (tmp_path / "test.csv").write_text("".join(lines))
    run = read_counts(tmp_path / "test.csv", {})
    values = iou_values(run, np.array([[1.0, 1.0], [2.0, 0.0]]))
    assert values["lesion", "all"] == pytest.approx([7 / 12, 0.6])
    assert values["lesion", "light"][0] == 0.6 and values["lesion", "dark"][0] == 0.5
    assert values["gap", "lesion"][0] == pytest.approx(0.1) and np.isnan(values["gap", "lesion"][1])
    assert np.isnan(values["marker", "all"]).all() and np.isnan(values["lesion", "medium"]).all()
    assert values["mean", "all"][0] == pytest.approx((7 / 12 + 188 / 193) / 2)
    rows = {(row["class"], row["tone"]): row for row in iou_rows([run], Bootstrap(50, 0.95, 1))}
    assert rows["mean", "all"]["classes"] == 2 and rows["mean", "medium"]["classes"] == 0
    assert np.isnan(rows["mean", "medium"]["iou"]) and rows["marker", "all"]["undefined_replicates"] == 1
    assert rows["lesion", "all"]["truth"] == 12 and rows["lesion", "all"]["images"] == 2


def test_gap_and_what_closes_it(tmp_path) -> None:
    """A segmenter that misses half of the lesion on dark skin has a gap above 0; another's smaller gap is a sure difference."""
    poor = [table(tmp_path / f"p{k}.csv", IMAGES, eroded(0.5 + k / 50)) for k in range(2)]
    fair = [table(tmp_path / f"f{k}.csv", IMAGES, eroded(0.12 + k / 50)) for k in range(2)]
    bootstrap = Bootstrap(400, 0.95, 7)
    gap = gap_row(poor, bootstrap)
    assert gap["low"] > 0.3 and gap["low"] < gap["gap"] < gap["high"] < 0.6 and gap["light_images"] == 10
    assert gap["gap"] == pytest.approx(gap["light"] - gap["dark"])
    assert abs(gap_row(fair, bootstrap)["gap"]) < 0.1
    rows = {(row["metric"], row["tone"]): row for row in compare_rows(poor, fair, bootstrap)}
    closed = rows["gap", "light-dark"]
    assert closed["high"] < -0.2 and closed["p"] == pytest.approx(2 / 401), "no replicate is on the other side"
    assert closed["difference"] == pytest.approx(closed["second"] - closed["first"])
    assert rows["lesion", "dark"]["low"] > 0.2 and np.isnan(rows["lesion", "light"]["low"])
    same = compare_rows(poor, poor, bootstrap)[0]
    assert (same["difference"], same["p"]) == (0, 1)
    assert str(iou_rows(poor, bootstrap)) == str(iou_rows(poor, Bootstrap(400, 0.95, 7)))


def test_pairing_beats_two_separate_intervals(tmp_path) -> None:
    one = [table(tmp_path / "a.csv", IMAGES, eroded(0.5))]
    two = [replace(one[0], counts=one[0].counts.copy())]
    lesion = NAMES.index("lesion")
    two[0].counts[:, lesion, :2] += [[1, 0]]  # one more lesion pixel found in every image
    bootstrap = Bootstrap(400, 0.95, 7)
    rows = {(row["metric"], row["tone"]): row for row in compare_rows(one, two, bootstrap)}
    alone = {(row["class"], row["tone"]): row for row in iou_rows(one, bootstrap)}
    paired = rows["lesion", "dark"]["high"] - rows["lesion", "dark"]["low"]
    assert rows["lesion", "dark"]["low"] > 0
    assert paired < (alone["lesion", "dark"]["high"] - alone["lesion", "dark"]["low"]) / 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: text.replace("union", "onion", 1), "lacks union"),
        (lambda text: HEAD, "lacks any line"),
    ],
)
def test_tables_that_are_none(tmp_path, change, words) -> None:
    table(tmp_path / "test.csv", IMAGES, eroded(0.5))
    path = tmp_path / "test.csv"
    path.write_text(change(path.read_text()))
    with pytest.raises(UserError, match=words):
        read_counts(path, {})


def test_a_table_that_its_record_does_not_name_is_refused(tmp_path) -> None:
    table(path := tmp_path / "test.csv", IMAGES, eroded(0.5))
    record = {"outputs": {"test.csv": {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}}}
    assert read_counts(path, record).images
    path.write_text(path.read_text().replace(",light,", ",pale,"))
    with pytest.raises(UserError, match="test.csv: .*its record names another"):
        read_counts(path, record)
