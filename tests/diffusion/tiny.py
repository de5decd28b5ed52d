"""A random-weight Stable Diffusion in miniature (ordinary diffusers classes and folder layout) and small archives, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from cgddi.core.archive import ArchiveWriter
from cgddi.core.images import LESION, MARKER, RULER, SKIN, TONES, encode_png
from cgddi.diffusion.weights import write_tensors
from cgddi.stages.embedding.train import TokenJob, train_token
from cgddi.stages.lora.train import LoraJob, train_lora
from cgddi.toy.denoising import MAX_TOKENS, build_tokenizer

WORDS = [
    "an",
    "a",
    "the",
    "image",
    "of",
    "on",
    "skin",
    "individual",
    "toned",
    "skinned",
    "light",
    "medium",
    "dark",
    "healthy",
    "with",
    "ruler",
    "marker",
    "lesion",
    "photo",
    "-",
    ".",
]
HIDDEN = 32
SIZE = 32


def tokenizer(folder: Path):
    """A CLIP tokenizer that knows WORDS as one token each."""
    return build_tokenizer(WORDS, folder)


def text_config(size: int, tokens: int = MAX_TOKENS, **more):
    """A small CLIP text model's config, for a vocabulary of a size and prompts of so many tokens."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=size,
        hidden_size=HIDDEN,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokens,
        bos_token_id=size - 2,
        eos_token_id=size - 1,
        pad_token_id=size - 1,
        **more,
    )


def make_model(
    folder: Path, prediction: str = "v_prediction", zero_snr: bool = True, xl: bool = False, seed: int = 0
) -> Path:
    """Write a random-weight model of SD's (or SDXL's) shape: 32 px images, 16 px latents."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    tokens = tokenizer(folder / "tokenizer")
    CLIPTextModel(text_config(len(tokens))).save_pretrained(folder / "text_encoder")
    more = {}
    if xl:
        tokenizer(folder / "tokenizer_2")
        CLIPTextModelWithProjection(text_config(len(tokens), projection_dim=16)).save_pretrained(
            folder / "text_encoder_2"
        )
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 64,
        }
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=HIDDEN * (2 if xl else 1),
        attention_head_dim=8,
        norm_num_groups=8,
        **more,
    )
    unet.save_pretrained(folder / "unet")
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        layers_per_block=1,
        sample_size=SIZE,
    )
    vae.save_pretrained(folder / "vae")
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type=prediction,
        clip_sample=False,
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing" if zero_snr else "leading",
        steps_offset=0 if zero_snr else 1,
        set_alpha_to_one=zero_snr,
    )
    scheduler.save_pretrained(folder / "scheduler")
    kind = "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"
    index = {
        "_class_name": kind,
        "_diffusers_version": "0.30.0",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    if xl:
        index |= {
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "force_zeros_for_empty_prompt": True,
            "image_encoder": [None, None],
            "feature_extractor": [None, None],
        }
    else:
        index |= {
            "safety_checker": [None, None],
            "feature_extractor": [None, None],
            "image_encoder": [None, None],
            "requires_safety_checker": False,
        }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def photo(number: int, tone: str, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A disc on skin, with a ruler on even numbers and a marker on every third."""
    draw = np.random.default_rng(number)
    base = {"light": 210, "medium": 150, "dark": 80}[tone]
    pixels = np.full((size, size, 3), base, np.uint8) + draw.integers(0, 12, (size, size, 3), dtype=np.uint8)
    mask = np.full((size, size), SKIN, np.uint8)
    y, x = np.mgrid[:size, :size]
    disc = (y - size // 2) ** 2 + (x - size // 2 + number % 3) ** 2 < (size // 5) ** 2
    pixels[disc], mask[disc] = (150, 40, 60), LESION
    if number % 2 == 0:
        pixels[:3], mask[:3] = 240, RULER
    if number % 3 == 0:
        pixels[:, -2:], mask[:, -2:] = (40, 40, 200), MARKER
    return pixels, mask


def make_photos(path: Path, count: int = 6, concept: str = "nevus", prefix: str = "p") -> list[str]:
    """A masks archive of `count` photos over the three tones; gives their ids."""
    ids = []
    with ArchiveWriter(path, {"stage": "masks"}) as archive:
        for number in range(count):
            tone = TONES[number % 3]
            pixels, mask = photo(number, tone)
            name = f"{prefix}{number:03d}"
            ids.append(name)
            row = {
                "id": f"real/test/{name}",
                "kind": "real",
                "cohort": "test",
                "concept": concept,
                "tone": tone,
                "malignant": False,
                "image_id": name,
                "has_mask": True,
                "has_ruler": bool((mask == RULER).any()),
                "has_marker": bool((mask == MARKER).any()),
            }
            archive.add(name, {"png": encode_png(pixels), "mask.png": encode_png(mask)}, row)
    return ids


def make_canvases(path: Path, count: int = 6, prefix: str = "c") -> list[str]:
    """An archive of healthy canvases."""
    ids = []
    with ArchiveWriter(path, {"stage": "canvases"}) as archive:
        for number in range(count):
            tone = TONES[number % 3]
            draw = np.random.default_rng(1000 + number)
            base = {"light": 210, "medium": 150, "dark": 80}[tone]
            pixels = np.full((SIZE, SIZE, 3), base, np.uint8) + draw.integers(0, 12, (SIZE, SIZE, 3), dtype=np.uint8)
            name = f"{prefix}{number:03d}"
            ids.append(name)
            row = {
                "id": f"healthy/test/{name}",
                "kind": "healthy",
                "cohort": "test",
                "concept": "healthy",
                "tone": tone,
                "malignant": None,
                "image_id": name,
            }
            archive.add(
                name, {"png": encode_png(pixels), "mask.png": encode_png(np.full((SIZE, SIZE), SKIN, np.uint8))}, row
            )
    return ids


def train_embedding(spec: dict, archives: list[Path], output: Path, **options) -> dict:
    """Train one concept's token; gives its record."""
    return train_token(TokenJob(spec, archives, output), **options)


def train_adapter(spec: dict, photos, canvases, split, embedding: Path, output: Path, **options) -> dict:
    """Train one concept's adapter; gives its record."""
    return train_lora(LoraJob(spec, photos, canvases, split, embedding, output), **options)


def write_token(path: Path, token: str, rows: torch.Tensor) -> None:
    """A token file as anyone may have made it."""
    write_tensors(path, {token: rows})


def spec_for(stage: str, model: Path, images: list[str], slug: str = "nevus", **settings) -> dict:
    """A job's spec."""
    return {
        "stage": stage,
        "seed": 7,
        "source": "test",
        "versions": {},
        "settings": settings,
        "concept": {"slug": slug, "name": slug, "token": f"<{slug}>"},
        "images": images,
        "scope": "main",
        "canvas_cohort": "test",
        "malignant": False,
        "model": {"source": str(model), "revision": None, "variant": None},
    }


TI = {
    "precision": "fp32",
    "init_token": "lesion",
    "steps": 6,
    "batch": 2,
    "accumulation": 2,
    "image_size": SIZE,
    "learning_rate": 1e-2,
    "checkpoint_every": 2,
    "validate_every": 0,
    "grid_every": 0,
}
LORA = {
    "precision": "fp32",
    "rank": 4,
    "alpha": 4,
    "steps": 6,
    "instances": 3,
    "priors_per_step": 3,
    "image_size": SIZE,
    "learning_rate": 1e-2,
    "grid_steps": 2,
    "grid_columns": 2,
    "checkpoint_every": 2,
    "log_every": 2,
    "validate_every": 0,
    "grid_every": 0,
}
SEMANTIC = {"precision": "fp32", "image_size": SIZE, "steps": 4, "repeats": 1, "batch": 4, "max_canvases": 3}
