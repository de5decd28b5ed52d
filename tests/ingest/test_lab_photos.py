"""A lab's photos as they are, through `cgddi ingest`: colours, depths, what cannot be used, and copies."""

import numpy as np
import pytest
from cgddi.cli import main
from cgddi.plan.sheets import load_sheets
from PIL import Image, ImageDraw

from tests.ingest.lab import SIDE, check, lab, photo
from tests.ingest.tables import rows_of, write


def _p3(name="Display P3"):
    """Display P3 as a matrix profile: primaries of the standard, adapted to D50 (ICC), gamma 2.2."""
    import struct

    def fixed(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(*values):
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 79,
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        **dict.fromkeys(
            (b"rTRC", b"gTRC", b"bTRC"), b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
        ),
    }
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s12s4s4sIIIQI12s4s44s", size, b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"\0" * 12,
        b"acsp", b"\0" * 4, 0, 0, 0, 0, 0, fixed(0.9642) + fixed(1) + fixed(0.8249), b"\0" * 4, b"\0" * 44)  # fmt: skip
    return head[:128] + struct.pack(">I", len(tags)) + table + body


@pytest.mark.parametrize("name", ["Display P3", "Display P3 Gamut with sRGB Transfer"])  # of an iPhone, of Android
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_display_p3_becomes_srgb(tmp_path, mode, name):
    from cgddi.core.images import read_photo

    flat = Image.new("RGB", (40, 40), (200, 120, 100))
    (flat.quantize(4) if mode == "P" else flat.convert(mode)).save(tmp_path / "p3.png", icc_profile=_p3(name))
    pixels, notes = read_photo(tmp_path / "p3.png")
    # By hand: linear = (v/255)^2.2; P3 -> XYZ -> sRGB with the standards' matrices (D65), and sRGB's curve back.
    linear = (np.array([200, 120, 100]) / 255) ** 2.2
    p3 = np.array([[0.486571, 0.265668, 0.198217], [0.228975, 0.691739, 0.079287], [0, 0.045113, 1.043944]])
    srgb = np.array(
        [[3.240970, -1.537383, -0.498611], [-0.969244, 1.875968, 0.041555], [0.055630, -0.203977, 1.056972]]
    )
    wanted = srgb @ p3 @ linear
    wanted = 255 * np.where(wanted > 0.0031308, 1.055 * wanted ** (1 / 2.4) - 0.055, 12.92 * wanted)
    assert notes[-1] == "converted_from_profile" and np.abs(np.asarray(pixels)[20, 20] - wanted).max() <= 2
    assert abs(int(np.asarray(pixels)[20, 20, 0]) - 200) > 5


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "L"])
def test_srgbs_own_profile_and_one_of_another_colour_space_change_no_pixel(tmp_path, mode):
    from cgddi.core.images import read_photo
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    stored = photo(3).quantize() if mode == "P" else photo(3).convert(mode)
    stored.save(tmp_path / "p.tif", icc_profile=profile)
    pixels, notes = read_photo(tmp_path / "p.tif")
    assert "converted_from_profile" not in notes and (np.asarray(pixels) == np.asarray(stored.convert("RGB"))).all()


@pytest.mark.parametrize("top", [1023, 4095, 16383, 65535])
def test_whole_numbers_are_scaled_by_the_bits_they_have(tmp_path, top):
    from cgddi.core.images import read_photo

    grey = np.asarray(photo(3).convert("L"), np.float64) / 255
    grey /= grey.max()
    Image.fromarray((grey * top).round().astype(np.uint16)).save(tmp_path / "p.tif")
    assert np.abs(np.asarray(read_photo(tmp_path / "p.tif")[0])[..., 0] - grey * 255).max() <= 1


def test_fractions_of_a_float_tiff(tmp_path):
    from cgddi.core.errors import UserError
    from cgddi.core.images import read_photo

    grey = np.asarray(photo(3).convert("L"), np.float32) / 255
    Image.fromarray(grey).save(tmp_path / "p.tif")
    assert np.abs(np.asarray(read_photo(tmp_path / "p.tif")[0])[..., 0] - grey * 255).max() <= 1
    Image.fromarray(grey - 0.5).save(tmp_path / "q.tif")
    with pytest.raises(UserError, match="below 0"):
        read_photo(tmp_path / "q.tif")


BAD = {
    "HEIC": (lambda p: p.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "sips -s format jpeg"),
    "black": (lambda p: Image.new("RGB", SIDE).save(p), "black or nearly so"),
    "nearly black": (lambda p: photo(0).point(lambda v: v // 16).save(p), "black or nearly so"),
    "flat": (lambda p: Image.new("RGB", SIDE, (200, 150, 120)).save(p), "one colour only"),
    "panorama": (lambda p: photo(0, (400, 80)).save(p), "panorama of 400 x 80"),
    "cut short": (lambda p: (photo(0).save(p), p.write_bytes(p.read_bytes()[:900])), "cannot be read as an image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_photos_that_cannot_be_used_are_refused_with_a_remedy_or_left_out(folder, capsys, kind):
    make, words = BAD[kind]
    args = lab(folder, 3)
    make(folder / "photos/IMG_1.jpg")
    assert main(args) == 2 and words in capsys.readouterr().err
    assert main([*args, "--leave-out"]) == 0
    assert [row["image_id"] for row in rows_of("images.csv")] == ["IMG_0", "IMG_2"]
    assert words in capsys.readouterr().out


def test_what_labs_have_is_taken(folder):
    """CMYK, grey, 150 px, and a photo that EXIF turns."""
    args = lab(folder, 4)
    photo(0).convert("CMYK").save(folder / "photos/IMG_0.jpg")
    photo(1).convert("L").save(folder / "photos/IMG_1.jpg")
    photo(2, (150, 150)).save(folder / "photos/IMG_2.jpg")
    exif = Image.Exif()
    exif[0x0112] = 3
    photo(3).save(folder / "photos/IMG_3.jpg", exif=exif)
    assert main(args) == 0 and check() == 0


# ---- copies

COPIES = {
    "mirrored": lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda p: p.transpose(Image.Transpose.ROTATE_90),
    "cropped in the middle": lambda p: p.crop((38, 29, 442, 331)),
    "cropped at a side": lambda p: p.crop((0, 0, 403, 360)),
    "cropped at a corner, mirrored, darker": lambda p: (
        p.crop((77, 58, 480, 360)).transpose(0).point(lambda v: v * 4 // 5)
    ),
}


def scene(seed):
    """A photo-like picture: spots of all sizes."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (480, 360), (205, 160, 140))
    draw = ImageDraw.Draw(image)
    for _ in range(400):
        x, y, r = rng.uniform(0, 480), rng.uniform(0, 360), rng.uniform(2, 14)
        draw.ellipse([x - r, y - r, x + r, y + r], fill=tuple(int(v) for v in rng.integers(90, 220, 3)))
    return image


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_one_group_and_stay_together_in_the_split(folder, capsys, copy):
    from cgddi.plan.splits import SplitSettings, assign

    args = lab(folder, 10)
    for i in range(10):
        scene(i).save(folder / f"photos/IMG_{i}.jpg", quality=90)
    COPIES[copy](scene(2)).save(folder / "photos/IMG_9.jpg", quality=60)
    assert main(args) == 0
    assert "one picture: IMG_2, IMG_9 -> group IMG_2" in capsys.readouterr().out
    photos = load_sheets("images.csv", "diseases.csv").photos
    assert [p.image_id for p in photos if p.group] == ["IMG_2", "IMG_9"]
    for seed in range(20):
        roles = assign(photos, "development", SplitSettings(seed=seed, test=0.5))
        assert roles.get("IMG_2") == roles.get("IMG_9") or "IMG_9" not in roles


def test_lists_of_known_copies_and_wrong_labels(folder, capsys):
    args = lab(folder, 6)
    write(folder / "pairs.csv", [{"first": "photos/IMG_0.jpg", "second": "IMG_3", "similarity": 0.9}])
    write(folder / "groups.csv", [{"image": f"img_{i}.JPG", "cluster": 1 + i // 6} for i in (3, 4, 5)])
    wrong = [
        {"image_id": "IMG_1", "disease": "melanoma"},
        {"image_id": "IMG_2", "disease": ""},
        {"image_id": "x", "disease": ""},
    ]
    write(folder / "wrong.csv", wrong)
    assert main([*args, "--known-duplicates", "pairs.csv", "groups.csv", "--label-errors", "wrong.csv"]) == 0
    rows = {row["image_id"]: row for row in rows_of("images.csv")}
    assert {i: row["group"] for i, row in rows.items() if row["group"]} == dict.fromkeys(
        ["IMG_0", "IMG_3", "IMG_4", "IMG_5"], "IMG_0"
    )
    assert rows["IMG_1"]["disease"] == "melanoma" and "IMG_2" not in rows
    said = capsys.readouterr().out
    assert "1 labels corrected, 1 photos of wrong label left out" in said and "1 rows name no photo" in said
