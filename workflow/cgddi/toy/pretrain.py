"""Rebuild the toy base model: ``cgddi toy-model --output config/toy/model``.

Generic corpus -> tokenizer -> autoencoder (closed form, fine-tuned) -> latents -> U-Net and text encoder ->
a diffusers folder of float16 safetensors with a recipe.json beside it.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from scipy.ndimage import binary_dilation

from cgddi.core.archive import file_sha256
from cgddi.core.colour import rgb_to_lab, skin_angle, tone_of_angle
from cgddi.core.images import LESION, SKIN, TONES
from cgddi.toy import autoencoder, denoiser
from cgddi.toy.corpus import (
    HEALTHY_ON,
    HEALTHY_PROMPT,
    NEGATIVE_PROMPT,
    ON_TONED,
    build_corpus,
    draw_example,
    vocabulary,
)
from cgddi.toy.denoiser import build_tokenizer
from cgddi.toy.scene import ITA_CUTS

CORPUS_SEED_OFFSET = 1_000_003
AUTOENCODER_SEED_OFFSET = 5
"""Added to the model's seed, these give the seeds of the two corpora."""
AUTOENCODER_CORPUS = 4000


SAMPLING = {"num_inference_steps": 20, "guidance_scale": 2.5, "guidance_rescale": 0.5}
HELD_OUT_SEED = 987_654_321


def held_out(count: int, lesions_only: bool = False):
    """``count`` corpus examples (photo, lesion, caption) from a seed that training never uses."""
    rng, found = np.random.default_rng(HELD_OUT_SEED), []
    while len(found) < count:
        example = draw_example(rng)
        if example[1] is not None or not lesions_only:
            found.append(example)
    return found


def lesion_contrast(image: np.ndarray, mask: np.ndarray) -> float:
    """CIELAB distance between the median colours of a lesion and of the skin within 6 px of it.

    ``image`` (H, W, 3) uint8, ``mask`` (H, W) with sDDI ids.  Raises ValueError if either has no pixel.
    """
    lesion = mask == LESION
    around = binary_dilation(lesion, iterations=6) & ~binary_dilation(lesion, iterations=1) & (mask == SKIN)
    if not lesion.any() or not around.any():
        raise ValueError("the mask shows no lesion with skin around it")
    lab = rgb_to_lab(image)
    return float(np.linalg.norm(np.median(lab[lesion], axis=0) - np.median(lab[around], axis=0)))


def _arrays(images: list[Image.Image]) -> list[np.ndarray]:
    return [np.asarray(image.convert("RGB")) for image in images]


def _quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tone_accuracy(pipeline: StableDiffusionPipeline, per_cell: int, seed: int = 0) -> dict[str, float]:
    """Share of text-to-image samples whose median ITA falls in the requested tone, by prompt kind and tone."""
    shares = {}
    for kind, form in (("healthy", HEALTHY_ON), ("lesion", ON_TONED)):
        for tone in TONES:
            prompt = form.format(what="a lesion", tone=tone)
            generator = torch.Generator().manual_seed(seed)
            images = _arrays(pipeline([prompt] * per_cell, generator=generator, **SAMPLING).images)
            shares[f"{kind}_{tone}"] = float(
                np.mean([tone_of_angle(skin_angle(image), ITA_CUTS) == tone for image in images])
            )
    return shares


def lesion_removal(pipeline: StableDiffusionInpaintPipeline, count: int, seed: int = 0) -> dict[str, float]:
    """Mean lesion contrast of held-out photos before and after inpainting with the plain healthy prompt."""
    examples = held_out(count, lesions_only=True)
    masks = [binary_dilation(photo.mask == LESION, iterations=2) for photo, _, _ in examples]
    painted = pipeline(
        [HEALTHY_PROMPT] * count,
        negative_prompt=[NEGATIVE_PROMPT] * count,
        image=[Image.fromarray(photo.image) for photo, _, _ in examples],
        mask_image=[Image.fromarray(mask.astype(np.uint8) * 255) for mask in masks],
        height=64,
        width=64,
        strength=1.0,
        num_inference_steps=20,
        guidance_scale=2.5,
        generator=torch.Generator().manual_seed(seed),
    ).images
    before, after = [], []
    for (photo, _, _), image in zip(examples, _arrays(painted), strict=True):
        try:
            contrast = lesion_contrast(photo.image, photo.mask), lesion_contrast(image, photo.mask)
        except ValueError:  # a lesion wholly framed by ink or cloth has no skin to compare with
            continue
        before.append(contrast[0])
        after.append(contrast[1])
    return {"before": float(np.mean(before)), "after": float(np.mean(after)), "photos": len(before)}


def structure_kept(pipeline: StableDiffusionImg2ImgPipeline, count: int, strength: float = 0.5, seed: int = 0) -> float:
    """Mean correlation of lightness between held-out photos and their image-to-image versions under their captions."""
    examples = held_out(count)
    images = pipeline(
        [text for _, _, text in examples],
        image=[Image.fromarray(photo.image) for photo, _, _ in examples],
        strength=strength,
        num_inference_steps=20,
        guidance_scale=2.5,
        generator=torch.Generator().manual_seed(seed),
    ).images
    pairs = zip(examples, _arrays(images), strict=True)
    return float(
        np.mean(
            [
                np.corrcoef(rgb_to_lab(p.image)[..., 0].ravel(), rgb_to_lab(i)[..., 0].ravel())[0, 1]
                for (p, _, _), i in pairs
            ]
        )
    )


def measure(pipeline: StableDiffusionPipeline, count: int) -> dict[str, object]:
    """All figures of a base model, ``count`` photos each; they go into its recipe."""
    _quiet(pipeline)
    inpainting = _quiet(StableDiffusionInpaintPipeline(**pipeline.components, requires_safety_checker=False))
    variation = _quiet(StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False))
    return {
        "tone_accuracy": tone_accuracy(pipeline, count),
        "lesion_contrast": lesion_removal(inpainting, count),
        "img2img_lightness_correlation": structure_kept(variation, count),
    }


def save_half(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write a pipeline as float16 safetensors that load as float32 unless asked otherwise; it stays as it is itself."""
    halves = {name: copy.deepcopy(getattr(pipeline, name)).half() for name in ("vae", "unet", "text_encoder")}
    parts = {**pipeline.components, **halves}
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(folder, safe_serialization=True)
    for path in folder.glob("*/*.safetensors"):
        path.chmod(0o644)
    for path in [folder / "model_index.json", *folder.glob("*/config.json")]:
        config = json.loads(path.read_text())
        for key in ("_name_or_path", "dtype", "torch_dtype"):
            config.pop(key, None)
        if path.parent.name == "text_encoder":
            config["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cgddi toy-model",
        description="Pretrain the toy base model on a generic procedural corpus (half an hour on two idle cores).",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write (ordinary diffusers layout)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3900, help="pretraining steps of U-Net and text encoder")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--autoencoder-steps", type=int, default=1200, help="fine-tuning steps of the autoencoder")
    parser.add_argument("--corpus", type=int, default=30_000, help="photos in the corpus")
    parser.add_argument("--figures", type=int, default=32, help="samples per measured figure; 0 skips measuring")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--compile", action="store_true", help="compile the U-Net with torch.compile (needs a C++ compiler)"
    )
    parser.add_argument(
        "--threads", type=int, default=2, help="CPU threads of torch, and processes that draw the corpus"
    )
    return parser


def _train_autoencoder(args: argparse.Namespace, log) -> AutoencoderKL:
    """The autoencoder, on a small corpus of its own."""
    corpus = build_corpus(min(AUTOENCODER_CORPUS, args.corpus), args.seed + AUTOENCODER_SEED_OFFSET, args.threads)
    images, lesions = torch.from_numpy(corpus.images), torch.from_numpy(corpus.lesions)
    torch.manual_seed(args.seed)
    model = autoencoder.new_autoencoder()
    autoencoder.closed_form(model, autoencoder.to_signal(images[:512]))
    model.to(args.device)
    log(f"autoencoder, closed form: {autoencoder.reconstruction_psnr(model, images[-256:]):.2f} dB")
    generator = torch.Generator().manual_seed(args.seed + 1)
    autoencoder.finetune(
        model,
        images,
        lesions,
        args.autoencoder_steps,
        generator,
        report=lambda step, psnr: log(f"autoencoder {step}: {psnr:.2f} dB"),
    )
    autoencoder.standardise(model, images[:1024])
    return model.eval()


def build(args: argparse.Namespace) -> dict:
    """Build the model as ``args`` (see ``--help``) say, write it to ``args.output`` and return its recipe."""
    start = time.time()

    def log(message: str) -> None:
        print(f"[{time.time() - start:7.1f} s] {message}", flush=True)

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    corpus = build_corpus(args.corpus, args.seed + CORPUS_SEED_OFFSET, args.threads)
    images, lesions = torch.from_numpy(corpus.images), torch.from_numpy(corpus.lesions)
    log(f"corpus of {len(corpus)} photos")
    vae = _train_autoencoder(args, log)
    latents = autoencoder.encode_all(vae, images)
    weights = torch.nn.functional.avg_pool2d(lesions[:, None].float(), 4)
    held_out = torch.from_numpy(build_corpus(min(256, args.corpus), HELD_OUT_SEED).images)
    psnr = autoencoder.reconstruction_psnr(vae, held_out)
    log(f"autoencoder: {psnr:.2f} dB on held-out photos; latents ready")

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer(vocabulary(), Path(folder))
    tokens = denoiser.tokenise(tokenizer, corpus.captions)
    torch.manual_seed(args.seed)
    text_encoder, unet = denoiser.new_text_encoder(tokenizer).to(args.device), denoiser.new_unet().to(args.device)
    settings = denoiser.Settings(steps=args.steps, batch_size=args.batch_size, warmup=min(100, args.steps))

    denoiser.train(
        unet,
        text_encoder,
        denoiser.new_scheduler(),
        latents,
        weights,
        tokens,
        denoiser.tokenise(tokenizer, [""])[0],
        settings,
        torch.Generator().manual_seed(args.seed + 2),
        compiled=args.compile,
        report=lambda step, loss: log(f"pretraining {step}/{args.steps}: loss {loss:.4f}"),
    )
    parts = {"vae": vae, "text_encoder": text_encoder, "tokenizer": tokenizer, "unet": unet}
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    save_half(StableDiffusionPipeline(**parts, scheduler=denoiser.new_scheduler(), **none), args.output)
    facts = {
        "command": "cgddi toy-model",
        "seed": args.seed,
        "corpus": args.corpus,
        "autoencoder_steps": args.autoencoder_steps,
        "pretraining": asdict(settings),
        "device": args.device,
        "threads": args.threads,
        "compiled": args.compile,
        "minutes": round((time.time() - start) / 60, 1),
    }
    recipe = finish(args.output, facts, psnr, args.figures, args.device)
    log(f"figures: {json.dumps(recipe['figures'])}")
    return recipe


def finish(folder: Path, facts: dict, psnr: float, samples: int, device: str = "cpu") -> dict:
    """Measure a saved model with ``samples`` photos per figure (0: do not) and write its recipe.json; returns the recipe.

    ``facts`` are the settings it was made with and ``psnr`` its autoencoder's, in dB.
    """
    build_tokenizer(vocabulary(), folder / "tokenizer")  # vocab.json and merges.txt too, for tools that read those
    figures: dict[str, object] = {"autoencoder_psnr_db": round(psnr, 2)}
    if samples:
        pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(device)
        figures.update(measure(pipeline, samples))
    libraries = ("torch", "diffusers", "transformers", "numpy", "scipy")
    recipe = {
        "what": "toy base model: Stable-Diffusion-shaped, 64 px, of a generic procedural corpus without any toy disease",
        **facts,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in libraries}},
        "sha256": {str(path.relative_to(folder)): file_sha256(path) for path in sorted(folder.rglob("*.safetensors"))},
        "figures": figures,
    }
    (folder / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n")
    return recipe


def main(argv: list[str] | None = None) -> int:
    """Command line of ``cgddi toy-model``; returns the exit status."""
    args = _parser().parse_args(argv)
    if (
        min(args.steps, args.corpus, args.batch_size, args.threads) < 1
        or args.autoencoder_steps < 0
        or args.figures < 0
    ):
        _parser().error("counts must be positive")
    build(args)
    return 0
