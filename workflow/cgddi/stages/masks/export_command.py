"""Write masks as png files at the size of their photos, to look at, to correct by hand, and to feed back.

Each mask is named after its photo and is a palette png whose indices are the class ids (0 background, 1 lesion, 2 marker,
3 ruler, 4 skin), so that any editor that keeps indexed colours (GIMP: Image, Mode, Indexed) shows and keeps the classes. Masks
that an automatic source gave but the workflow does not use are written too: those are the ones to correct. Beside the masks,
masks.csv lists image_id, file, mask, source, used and flags.

To use corrected masks: name them in the column `mask` of the image sheet and set masks.source: human for the cohort, or
masks.prefer_human: true to keep automatic masks for the other photos. If the editor saved RGB, set masks.id_map to the palette
(the command prints it).
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cgddi.core.archive import Archive, write_atomic
from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.core.images import CLASS_COLOURS, decode_png, to_photo
from cgddi.job.spec import read_spec


def export(archives: Iterable[str | Path], folder: str | Path, only: str = "all") -> Counter[str]:
    """Write the masks of some masks archives.

    Args:
        folder: where the png files and masks.csv go.
        only: "all", "used" or "rejected" masks.

    Returns:
        How many masks were written (`masks`), and how many photos have none (`without`).

    Raises:
        UserError: an archive is no masks archive.
    """
    folder, rows, counts = Path(folder), [], Counter()
    opened = [Archive(path) for path in archives]
    files: dict[tuple[str, str], str] = {}
    for archive in opened:
        if archive.record["spec"].get("stage") != "masks":
            raise UserError(f"{archive.path}: is no masks archive. Name archives under masks/ of the results.")
        spec = read_spec(archive.record_path)
        files.update({(spec["cohort"], row["image_id"]): row["file"] for row in spec["rows"]})
    stems = Counter(Path(file).stem for file in files.values())
    for archive in opened:
        for row in archive.rows:
            used = "mask.png" in row["members"]
            member = "mask.png" if used else "rejected.mask.png"
            if member not in row["members"] or only == ("rejected" if used else "used"):
                counts["without"] += member not in row["members"]
                continue
            file = files[row["cohort"], row["key"]]
            stem = Path(file).stem if stems[Path(file).stem] == 1 else row["key"]
            png = palette_png(to_photo(decode_png(archive.read(row, member)), row))
            write_atomic(folder / f"{stem}.png", png, alone=False)
            name = folder / f"{stem}.png"
            rows.append([row["key"], file, str(name), row["mask_source"], str(used).lower(), " ".join(row["flags"])])
            counts["masks"] += 1
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([["image_id", "file", "mask", "source", "used", "flags"], *rows])
    write_atomic(folder / "masks.csv", text.getvalue())
    return counts


def palette_png(mask: np.ndarray) -> bytes:
    """PNG bytes of an (H, W) uint8 mask with class ids as palette indices."""
    picture = Image.fromarray(mask, "L")
    picture.putpalette([part for colour in CLASS_COLOURS.values() for part in colour])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def main(argv: Sequence[str]) -> int:
    """Run `cgddi masks-export`."""
    parser = command_parser("masks-export", __doc__)
    parser.add_argument("--masks", nargs="+", required=True, help="masks archives (.tar) of the results")
    parser.add_argument("--output-dir", required=True, help="folder for the png files and masks.csv")
    parser.add_argument("--only", choices=("all", "used", "rejected"), default="all", help="which masks (default all)")
    options = parser.parse_args(argv)
    counts = export(options.masks, options.output_dir, options.only)
    colours = ", ".join(f'"#{r:02x}{g:02x}{b:02x}": {class_id}' for class_id, (r, g, b) in CLASS_COLOURS.items())
    print(f"{options.output_dir}: {counts['masks']} masks and masks.csv; {counts['without']} photos have no mask.")
    print(f"Colours, for masks.id_map if an editor saves them as RGB: {{{colours}}}")
    return 0
