"""Whole composites at 256 px on one core: read, place, blend, encode as png, write into the tar."""

from __future__ import annotations

import io
import resource
import tarfile
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.placement import reference as place_by_rectangles

SIZE, WORKING, CANVASES, REFERENCE_CANVASES = 256, 512, 200, 12


def reference(donor: tuple[np.ndarray, np.ndarray], canvases, path: Path) -> int:
    """The plain way: decode and shrink each canvas, place by rectangles, blend whole pictures in floats, Pillow's default png."""
    from cgddi.core.images import LESION, MARKER, SKIN
    from scipy.ndimage import binary_dilation, gaussian_filter

    rng, made = np.random.default_rng(0), 0
    photo, lesion = donor[0].astype(float), donor[1] == LESION
    weight = gaussian_filter(binary_dilation(lesion, np.ones((3, 3)), iterations=2) * 1.0, 2.0)
    rows, columns = np.flatnonzero(lesion.any(1))[0], np.flatnonzero(lesion.any(0))[0]
    with tarfile.open(path, "w") as tar:
        for row in canvases.rows[:REFERENCE_CANVASES]:
            with Image.open(io.BytesIO(canvases.read(row))) as picture:
                canvas = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS)).astype(float)
            with Image.open(io.BytesIO(canvases.read(row, "mask.png"))) as picture:
                mask = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.NEAREST))
            place = place_by_rectangles(np.isin(mask, (SKIN, LESION, MARKER)), lesion, rng)
            if place is None:
                continue
            shift = (place[0] - rows, place[1] - columns)
            alpha = np.roll(weight, shift, (0, 1))[..., None]
            result = canvas * (1 - alpha) + np.roll(photo, shift, (0, 1)) * alpha
            for array in (
                result.astype(np.uint8),
                np.where(np.roll(lesion, shift, (0, 1)), LESION, mask).astype(np.uint8),
            ):
                buffer = io.BytesIO()
                Image.fromarray(array).save(buffer, "PNG")
                info = tarfile.TarInfo(f"{made}.png")
                info.size = buffer.tell()
                buffer.seek(0)
                tar.addfile(info, buffer)
            made += 1
    return REFERENCE_CANVASES


def write_inputs(folder: Path, canvases: int = CANVASES) -> tuple[Path, Path]:
    """A donor's archive and an archive of canvases, through the stages' own functions where they exist."""
    from cgddi.stages.canvases.settings import CanvasesSettings
    from cgddi.stages.canvases.stage import pool_canvases

    from tests.stages.lesion_mapped.world import candidate, photo, spec_of, write_samples

    donor = write_samples(folder / "donor.tar", [("d", *photo(5, WORKING, lesion=0.006), {})])
    kept = {"kind": "healthy", "candidates": candidate()}
    pictures = ((f"{n:05d}", *photo(n % 20, WORKING, lesion=0.006), kept) for n in range(canvases))
    healthy = write_samples(folder / "healthy.tar", pictures)
    pool = folder / "canvases.tar"
    pool_canvases(spec_of("canvases", cohort="c"), CanvasesSettings(), [healthy], pool)
    return donor, pool


def run() -> dict:
    """Images per second of one core's time (fair on a shared machine), by the clock, each part's share, and the peak memory."""
    from cgddi.core.archive import Archive
    from cgddi.stages.lesion_mapped.settings import LesionMappedSettings
    from cgddi.stages.lesion_mapped.stage import load_sized, map_lesions

    from tests.stages.lesion_mapped.world import spec_of

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        donor, pool = write_inputs(folder)
        spec = spec_of("lesion_mapped", images=["d"], canvas_cohort="c")
        settings = LesionMappedSettings(image_size=SIZE)
        map_lesions(spec, settings, donor, pool, folder / "warm.tar")
        began, wall = time.process_time(), time.perf_counter()
        map_lesions(spec, settings, donor, pool, folder / "out.tar")
        ours, wall = CANVASES / (time.process_time() - began), CANVASES / (time.perf_counter() - wall)
        canvases = Archive(pool)
        pictures = load_sized(Archive(donor), Archive(donor).rows[0], SIZE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            began = time.process_time()
            count = reference(pictures, canvases, folder / "reference.tar")
            theirs = count / (time.process_time() - began)
        parts = _parts(pictures, canvases, settings)
    return {
        "name": "composite",
        "unit": "images per second of one core's time",
        "ours": round(ours, 1),
        "reference": round(theirs, 2),
        "ratio": round(ours / theirs, 1),
        "ours_by_the_clock": round(wall, 1),
        "ms_per_image": parts,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "minutes_for_103206_pairs_on_4_cores": round(103206 / ours / 4 / 60, 2),
    }


def _parts(donor: tuple[np.ndarray, np.ndarray], canvases, settings) -> dict[str, float]:
    """Milliseconds per image of reading, placing, blending and encoding; the rest is the tar, hashes and manifest."""
    from cgddi.core.images import LESION, MARKER, SKIN, encode_png
    from cgddi.core.placement import allowed_positions
    from cgddi.stages.lesion_mapped.blend import Blender
    from cgddi.stages.lesion_mapped.lesion import cut_out
    from cgddi.stages.lesion_mapped.stage import load_sized

    blender = Blender(cut_out(*donor, settings), settings.blending, settings.lighting_match)
    spent = dict.fromkeys(("read", "place", "blend", "png"), 0.0)
    rows = canvases.rows[:50]
    for row in rows:
        marks = [time.process_time()]
        canvas, mask = load_sized(canvases, row, SIZE)
        marks.append(time.process_time())
        valid = (mask == SKIN) | (mask == LESION) | (mask == MARKER)
        place = allowed_positions(valid, blender.lesion.runs, settings.padding).draw(np.random.default_rng(0))
        marks.append(time.process_time())
        blender.paste(canvas, mask, place)
        marks.append(time.process_time())
        encode_png(canvas), encode_png(mask)
        marks.append(time.process_time())
        for part, start, end in zip(spent, marks, marks[1:], strict=False):
            spent[part] += end - start
    return {part: round(seconds / len(rows) * 1e3, 3) for part, seconds in spent.items()}
