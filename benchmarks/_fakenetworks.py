"""What else of the product runs on a GPU, on the fake one of `_fakecuda`: classifiers, FEDD's networks, inpainting."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks import _fakemodels
from benchmarks._fakecuda import CUDA, fake_parameters


def classifier(
    method: str,
    precision: str = "bf16",
    batch: int = 64,
    size: int = 224,
    backbone: str | None = None,
    texts: int = 115,
) -> Callable[[], torch.Tensor]:
    """A step of `cgddi classify` on pictures that lie on the device: augment, losses, gradients, optimiser.

    Args:
        method: "baseline", "fairdisco" or "patchalign". backbone: timm's name; None takes the published one.
        texts: of PatchAlign.
    """
    from accelerate import Accelerator
    from cgddi.stages.classify import augment as views_of
    from cgddi.stages.classify import methods
    from cgddi.stages.classify.settings import ClassifySettings, training_of
    from cgddi.stages.classify.train import Losses

    training = {"weights": "random"} | ({"backbone": backbone} if backbone else {})
    settings = ClassifySettings(image_size=size, precision=precision, training=training)
    texts_of = mock.patch(
        "cgddi.stages.classify.patchalign.label_embeddings", lambda *_: (torch.randn(texts, 1024), [])
    )
    with _disable_current_modes(), texts_of:
        model, _ = methods.build(method, settings, 2, [])
    views_of._imagenet.cache_clear()
    fake_parameters(model).train()
    model.to(memory_format=torch.channels_last)
    accelerator = Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    network, optimizer = accelerator.prepare(Losses(model), torch.optim.Adam(parameters, lr=1e-4, fused=True))
    side, clip = views_of.side_to_keep(settings), training_of(settings, method).clip_norm
    pixels = torch.empty(batch, 3, side, side, dtype=torch.uint8, device=CUDA)
    views = torch.from_numpy(views_of.random_views(batch, np.random.default_rng(0))).to(CUDA)
    labels, tones = (torch.empty(batch, dtype=torch.int64, device=CUDA) for _ in range(2))

    def step() -> torch.Tensor:
        images = views_of.augment(pixels, views, settings).contiguous(memory_format=torch.channels_last)
        terms = network(images, labels, tones, None)
        optimizer.zero_grad(set_to_none=True)
        loss = torch.stack([term.float() for term in terms.values()]).sum()
        accelerator.backward(loss)
        if clip:
            accelerator.clip_grad_norm_(parameters, clip)
        optimizer.step()
        return loss

    step()  # the optimiser's state, the normalisation's constants
    return step


def features(folder: Path | None, size: int = 256, precision: str = "fp32", batch: int = 8) -> Callable[[], Any]:
    """`cgddi fedd features` of a batch: all blocks' maps and pooled vectors.

    Args:
        folder: the model; None is the ADM at its true size, without weights.
    """
    from cgddi.fedd.features import adm, backbones, extract
    from diffusers import UNet2DModel

    if folder is None:
        with _fakemodels.weightless():
            unet = UNet2DModel(**adm.unet_config())
        with mock.patch.object(backbones, "_scheduler", lambda _: adm.scheduler()):
            model = backbones.PixelBackbone.__new__(backbones.PixelBackbone)
            backbones.FeatureBackbone.__init__(
                model, fake_parameters(unet.eval().requires_grad_(False)), "", Path(), CUDA
            )
        unet.to(memory_format=torch.channels_last)
    else:
        loaded = mock.patch.object(backbones.diffusion, "load", lambda *_: _fakemodels.backbone(folder, "fp32"))
        pixel = mock.patch.object(torch.nn.Module, "to", lambda module, *_, **__: module)
        with loaded, pixel:
            model = backbones.load({"source": str(folder)}, CUDA)
        fake_parameters(model.unet)
    model.in_precision(precision)
    pixels, names = np.zeros((batch, 3, size, size), np.uint8), [f"p{number}" for number in range(batch)]
    blocks = list(range(len(model.decoder_blocks)))[-4:]
    given = {"seed": 1, "timestep": 100, "maps": blocks[:2], "pooled": blocks, "precision": precision}
    return lambda: extract.extract(model, names, pixels, batch=batch, **given)


def segmenter(
    size: int = 256, photos: int = 20, channels: tuple[int, ...] = (1024, 512), members: int = 5
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A chunk of steps of `cgddi fedd segmenter`, with the look at the best states after it; and a photo's mask."""
    from cgddi.core.images import CLASSES, TONES
    from cgddi.fedd.segmenter.ensemble import EnsembleMLP, EnsembleTraining, Segmenter
    from cgddi.fedd.segmenter.pixels import Pixels, PixelSampler
    from cgddi.fedd.segmenter.train import CHUNK
    from cgddi.fedd.settings import SegmenterSettings
    from torch.nn import functional

    settings = SegmenterSettings()
    cells = [size // 2 ** (number + 2) for number in range(len(channels))]
    maps = [
        torch.empty(photos, width, side, side, dtype=torch.float16, device=CUDA).to(memory_format=torch.channels_last)
        for width, side in zip(channels, cells, strict=True)
    ]
    truth = torch.empty(photos, size, size, dtype=torch.int64, device=CUDA)
    data = Pixels(maps, truth, torch.arange(photos) % len(TONES))
    generators = [torch.Generator().manual_seed(member) for member in range(members)]
    networks = fake_parameters(EnsembleMLP(members, sum(channels), settings.hidden, len(CLASSES)))
    optimizer = torch.optim.Adam(networks.parameters(), lr=1e-3, foreach=True)
    training, sampler = EnsembleTraining(networks, generators, optimizer, 10), PixelSampler(data, generators)

    def steps() -> None:
        networks.train()
        for x, y in zip(*sampler.take(CHUNK, settings.batch_pixels), strict=True):
            training.step(functional.cross_entropy(networks(x).flatten(0, 1), y.flatten()))
        training.best.look(1, torch.zeros(members))

    def mask() -> Any:
        facts = {"blocks": list(range(len(channels))), "channels": list(channels), "size": size}
        given = {number: block[0] for number, block in enumerate(maps)}
        return Segmenter(networks.eval(), facts).predict(given)

    return steps, mask


def probe(photos: int = 60, blocks: int = 18, seeds: int = 5, epochs: int = 4) -> Callable[[], Any]:
    """Some epochs of `cgddi fedd probe`: all blocks and seeds at once."""
    from cgddi.fedd.probe import Pooled, fit
    from cgddi.fedd.settings import ProbeSettings

    train, held = (
        Pooled(torch.empty(photos, blocks, 512, device=CUDA), torch.empty(photos, device=CUDA)) for _ in range(2)
    )
    settings = ProbeSettings(epochs=epochs)
    return lambda: fit(train, held, settings, list(range(blocks)), list(range(seeds)), (1, "probe"))


def inpainter(source: Path | Callable[[], Any], settings, size: int = 64, count: int = 2) -> Callable[[], Any]:
    """`cgddi healthy` of a batch by a diffusion model.

    Args:
        source: the model's folder, or what makes its pipeline, of modules without weights. settings: `HealthySettings`.
    """
    from cgddi.job.runtime import torch_dtype
    from cgddi.stages.healthy import diffusion

    given = source if callable(source) else None
    stays = mock.patch.object(diffusion.DiffusionPipeline, "to", lambda pipeline, *_: pipeline)
    made = mock.patch.object(diffusion, "load_pipeline", lambda *_: given()) if given else contextlib.nullcontext()
    with _disable_current_modes(), stays, made:
        inpainter = diffusion.DiffusionInpainter({"source": str(source)}, settings, torch.device("cpu"))
    for part in inpainter.pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            fake_parameters(part.eval().requires_grad_(False), torch_dtype(settings.precision))
    inpainter.device = CUDA
    draw = np.random.default_rng(0)
    photos = [draw.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]
    region = np.zeros((size, size), np.float32)
    region[size // 4 : size // 2, size // 4 : size // 2] = 1
    return lambda: inpainter.inpaint(photos, [region] * count, list(range(count)))


def sd2_inpainting(sd21: Path) -> Any:
    """Stable Diffusion 2's inpainting pipeline without weights: 2.1's parts, and nine channels of input.

    Args:
        sd21: see `_fakemodels.sd21`.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    with _fakemodels.weightless():
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(sd21, subfolder="unet"), in_channels=9)
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(sd21, subfolder="vae"))
        text = CLIPTextModel(CLIPTextModel.config_class.from_pretrained(sd21 / "text_encoder"))
    return StableDiffusionInpaintPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.from_pretrained(sd21 / "tokenizer"),
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def kandinsky22(tokenizer: Path) -> Any:
    """Kandinsky 2.2's inpainting pipeline with its prior (their published configs) without weights.

    Args:
        tokenizer: CLIP's.
    """
    import diffusers
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModelWithProjection,
        CLIPTokenizer,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    vision = CLIPVisionConfig(
        hidden_size=1664,
        intermediate_size=8192,
        num_hidden_layers=48,
        num_attention_heads=16,
        patch_size=14,
        projection_dim=1280,
    )
    with _fakemodels.weightless():
        prior = {
            "prior": diffusers.PriorTransformer(num_layers=20, embedding_dim=1280),
            "image_encoder": CLIPVisionModelWithProjection(vision),
            "text_encoder": CLIPTextModelWithProjection(_fakemodels.clip_text(1280, 32, 1280)),
        }
        unet = diffusers.UNet2DConditionModel(
            sample_size=64,
            in_channels=9,
            out_channels=8,
            block_out_channels=(384, 768, 1152, 1536),
            layers_per_block=3,
            down_block_types=("ResnetDownsampleBlock2D", *("SimpleCrossAttnDownBlock2D",) * 3),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            up_block_types=(*("SimpleCrossAttnUpBlock2D",) * 3, "ResnetUpsampleBlock2D"),
            resnet_time_scale_shift="scale_shift",
            attention_head_dim=64,
            cross_attention_dim=768,
            encoder_hid_dim=1280,
            encoder_hid_dim_type="image_proj",
            addition_embed_type="image",
        )
        movq = diffusers.VQModel(
            block_out_channels=(128, 256, 256, 512),
            down_block_types=(*("DownEncoderBlock2D",) * 3, "AttnDownEncoderBlock2D"),
            up_block_types=("AttnUpDecoderBlock2D", *("UpDecoderBlock2D",) * 3),
            layers_per_block=2,
            latent_channels=4,
            vq_embed_dim=4,
            num_vq_embeddings=16384,
            norm_type="spatial",
        )
    prior |= {
        "tokenizer": CLIPTokenizer.from_pretrained(tokenizer),
        "scheduler": diffusers.UnCLIPScheduler(prediction_type="sample", clip_sample_range=5.0),
        "image_processor": CLIPImageProcessor(),
    }
    scheduler = diffusers.DDIMScheduler(
        beta_schedule="linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, set_alpha_to_one=False
    )
    parts = {f"prior_{name}": part for name, part in prior.items()}
    return diffusers.KandinskyV22InpaintCombinedPipeline(unet=unet, movq=movq, scheduler=scheduler, **parts)
