"""What the diffusion benchmarks share: models of the real shapes, small archives, step timing, the diffusers scripts."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

WORDS = [
    "an",
    "a",
    "image",
    "photo",
    "of",
    "on",
    "the",
    "skin",
    "lesion",
    "healthy",
    "individual",
    "light",
    "medium",
    "dark",
]
WORDS += ["skinned", "toned", "with", "ruler", "marker", "-"]


def device() -> torch.device:
    """The GPU if there is one; on a CPU one thread, since the workflow runs many single-threaded jobs."""
    warnings.filterwarnings("ignore")
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(1)
    return torch.device("cpu")


def now() -> float:
    """Seconds of a clock: on a CPU those this process has computed, which other work on the machine hardly changes."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def precision(device: torch.device) -> str:
    """The precision to measure on a device."""
    return "bf16" if device.type == "cuda" else "fp32"


def backbone(model: str | Path, device: torch.device):
    """A loaded base model."""
    from cgddi.diffusion.backbone import load

    return load({"source": str(model)}, device, precision(device))


def toy_model(folder: Path) -> Path:
    """The toy world's base model as shipped; without it, its architecture with random weights."""
    shipped = Path(__file__).parents[1] / "config" / "toy" / "model"
    if (shipped / "model_index.json").is_file():
        return shipped
    from cgddi.toy.autoencoder import new_autoencoder
    from cgddi.toy.denoising import build_tokenizer, new_scheduler, new_text_encoder, new_unet

    torch.manual_seed(0)
    tokenizer = build_tokenizer(WORDS, folder / "tokenizer")
    parts = {
        "text_encoder": new_text_encoder(tokenizer),
        "unet": new_unet(),
        "vae": new_autoencoder(),
        "scheduler": new_scheduler(),
    }
    return save_model(folder, parts)


def sd21_model(folder: Path, weights: bool = True) -> Path:
    """Stable Diffusion 2.1 base's architecture (its published configs) with random weights, or none, in diffusers layout."""
    from cgddi.toy.denoising import build_tokenizer
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    where = folder / "tokenizer"
    build_tokenizer(WORDS, where)
    vocabulary = json.loads((where / "vocab.json").read_text())
    vocabulary |= {f"filler{number}": number for number in range(len(vocabulary), 49408)}
    for file in where.glob("*"):
        if file.name not in ("vocab.json", "merges.txt"):
            file.unlink()
    (where / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = CLIPTokenizer.from_pretrained(where, model_max_length=77)
    tokenizer.save_pretrained(where)
    place = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(place if weights else "meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            attention_head_dim=[5, 10, 20, 20],
            cross_attention_dim=1024,
            use_linear_projection=True,
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=23,
                num_attention_heads=16,
                hidden_act="gelu",
                projection_dim=512,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return save_model(folder, {"text_encoder": text, "unet": unet, "vae": vae, "scheduler": scheduler}, weights)


def save_model(folder: Path, parts: dict, weights: bool = True, kind: str = "StableDiffusionPipeline") -> Path:
    """A model folder in diffusers layout: configs, weights where they are wanted; tokenizers are there already.

    Args:
        kind: diffusers' pipeline.
    """
    for name, part in parts.items():
        if weights or name == "scheduler":
            part.save_pretrained(folder / name)
        elif name.startswith("text_encoder"):
            part.config.save_pretrained(folder / name)
        else:
            part.save_config(folder / name)
    index = {name: [type(part).__module__.split(".")[0], type(part).__name__] for name, part in parts.items()}
    index |= {
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    index |= {"_class_name": kind, "_diffusers_version": "0.30.0", "image_encoder": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index | {"requires_safety_checker": False}))
    return folder


def photos(folder: Path, size: int, count: int) -> tuple[Path, Path, list[str]]:
    """The same random photos twice: a folder of PNG files for the scripts, an archive (with canvases' rows too) for us."""
    from cgddi.core.archive import ArchiveWriter
    from cgddi.core.images import TONES, encode_png

    files, tar, names = folder / "files", folder / "photos.tar", []
    files.mkdir(parents=True)
    with ArchiveWriter(tar, {"stage": "masks"}) as archive:
        for number in range(count):
            draw = np.random.default_rng(number)
            small = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            pixels = np.kron(small, np.ones((size // 8, size // 8, 1), np.uint8))
            name, png = f"x{number:03d}", encode_png(pixels)
            (files / f"{name}.png").write_bytes(png)
            names.append(name)
            row = {
                "id": name,
                "kind": "real",
                "cohort": "b",
                "concept": "c",
                "tone": TONES[number % 3],
                "image_id": name,
            }
            archive.add(name, {"png": png}, row)
    return files, tar, names


def spec(stage: str, model: Path, images: list[str], slug: str = "c", **settings) -> dict:
    """A job's spec; a run that is timed does nothing but train."""
    if stage in ("embedding", "lora"):
        place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        settings = {"validate_every": 0, "grid_every": 0, "precision": precision(place), **settings}
    return {
        "stage": stage,
        "seed": 1,
        "settings": settings,
        "concept": {"slug": slug, "name": slug, "token": f"<{slug}>"},
        "images": images,
        "scope": "main",
        "canvas_cohort": "b",
        "model": {"source": str(model)},
        "versions": {},
    }


BLOCK = 5
"""Steps from one look at the clock to the next; the device is waited for at each."""


class Enough(Exception):
    """The measured steps are done."""


class Clock:
    """Stands in for tqdm in a training loop: notes when each step ended, and stops the loop after `steps`.

    Args:
        steps: after which `Enough` is raised; None lets the loop finish.
    """

    def __init__(self, steps: int | None = None):
        self.steps, self.stamps = steps, []

    def __call__(self, *args, **kwargs):
        return self

    def update(self, *_):
        if torch.cuda.is_available() and len(self.stamps) % BLOCK == 0:
            torch.cuda.synchronize()  # else the time would be that of naming the work
        self.stamps.append(now())
        if self.steps and len(self.stamps) >= self.steps:
            raise Enough

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def set_postfix(self, *_, **__):
        return None

    def close(self):
        return None

    def seconds(self, warm: int) -> float:
        """Seconds per step of the fastest block after `warm` steps (whole blocks): other work on the machine can only add."""
        marks = self.stamps[warm::BLOCK]
        return min(b - a for a, b in zip(marks, marks[1:], strict=False)) / BLOCK


def timed(step, steps: int, warm: int) -> float:
    """Seconds of a function called in a loop, by the fastest block."""
    clock = Clock()
    for _ in range(steps):
        step()
        clock.update()
    return clock.seconds(warm)


@contextlib.contextmanager
def clocked(module: ModuleType, clock: Clock):
    """Put a clock in place of a module's tqdm."""
    real = module.tqdm
    module.tqdm = clock
    try:
        yield clock
    finally:
        module.tqdm = real


def script(name: str, argv: list[str], steps: int) -> Clock | None:
    """Run a diffusers example script for some steps in this process.

    Args:
        name: its path under the folder that the environment variable DIFFUSERS_EXAMPLES names.
        argv: its arguments.

    Returns:
        The step times, or None when DIFFUSERS_EXAMPLES is not set.
    """
    root = os.environ.get("DIFFUSERS_EXAMPLES")
    if not root:
        return None
    import diffusers.utils

    diffusers.utils.check_min_version = lambda *_: None
    path = Path(root) / name
    loaded = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(loaded)
    clock, before = Clock(steps), sys.argv
    sys.argv = [str(path), *argv]
    try:
        loaded.loader.exec_module(module)
        module.args = module.parse_args()  # train_dreambooth_lora reads it as a global, as it is when run as a program
        module.tqdm = clock
        with contextlib.suppress(Enough):
            module.main(module.args) if name.endswith("lora.py") else module.main()
    finally:
        sys.argv = before
    return clock


def result(name: str, ours: float, theirs: float | None, limit: float, **more) -> dict:
    """A benchmark's row, from seconds per step; `of_limit` is the share of the bare step's speed that we reach."""
    return {
        "name": name,
        "unit": "steps/s",
        "ours": round(1 / ours, 3),
        "reference": round(1 / theirs, 3) if theirs else None,
        "ratio": round(theirs / ours, 3) if theirs else None,
        "of_limit": round(limit / ours, 3),
        "limit": round(1 / limit, 3),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu, 1 thread",
        **more,
    }
