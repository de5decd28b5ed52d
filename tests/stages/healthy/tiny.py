"""Random-weight inpainting models in miniature, of the true classes: Stable Diffusion (4 and 9 channels) and Kandinsky 2.2."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.diffusion.tiny import HIDDEN, text_config

TOKENS = 24


def _tokenizer(folder: Path):
    """A CLIP tokenizer of letters, end-of-word letters and a few merges."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True)
    letters = [*"abcdefghijklmnopqrstuvwxyz,-."]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS)
    return tokenizer, len(words)


def stable_diffusion(folder: Path, channels: int = 4) -> Path:
    """Stable Diffusion's folder layout: a text-to-image UNet (4 channels) or an inpainting UNet (9 channels)."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInpaintPipeline,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    tokenizer, size = _tokenizer(folder.parent / f"{folder.name}_tokenizer")
    pipeline = StableDiffusionPipeline if channels == 4 else StableDiffusionInpaintPipeline
    pipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            norm_num_groups=4,
            layers_per_block=1,
        ),
        text_encoder=CLIPTextModel(text_config(size, TOKENS)),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=16,
            in_channels=channels,
            out_channels=4,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=HIDDEN,
            attention_head_dim=8,
            norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)
    return folder


def kandinsky(folder: Path) -> tuple[Path, Path, Path]:
    """Kandinsky 2.2 as (decoder folder, prior folder, combined folder)."""
    from diffusers import (
        DDIMScheduler,
        KandinskyV22InpaintCombinedPipeline,
        KandinskyV22InpaintPipeline,
        KandinskyV22PriorPipeline,
        PriorTransformer,
        UnCLIPScheduler,
        UNet2DConditionModel,
        VQModel,
    )
    from transformers import (
        CLIPImageProcessor,
        CLIPTextModelWithProjection,
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )

    torch.manual_seed(0)
    tokenizer, size = _tokenizer(folder / "tokenizer")
    vision = CLIPVisionConfig(
        hidden_size=HIDDEN,
        image_size=32,
        projection_dim=HIDDEN,
        intermediate_size=37,
        num_attention_heads=2,
        num_hidden_layers=2,
        patch_size=16,
    )
    prior = KandinskyV22PriorPipeline(
        prior=PriorTransformer(
            num_attention_heads=2, attention_head_dim=12, embedding_dim=HIDDEN, num_layers=1, num_embeddings=TOKENS
        ),
        image_encoder=CLIPVisionModelWithProjection(vision),
        text_encoder=CLIPTextModelWithProjection(text_config(size, TOKENS, projection_dim=HIDDEN)),
        tokenizer=tokenizer,
        scheduler=UnCLIPScheduler(
            variance_type="fixed_small_log", prediction_type="sample", clip_sample=True, clip_sample_range=5.0
        ),
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    )
    decoder = KandinskyV22InpaintPipeline(
        unet=UNet2DConditionModel(
            in_channels=9,
            out_channels=8,
            addition_embed_type="image",
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            block_out_channels=(32, 64),
            layers_per_block=1,
            encoder_hid_dim=HIDDEN,
            encoder_hid_dim_type="image_proj",
            cross_attention_dim=HIDDEN,
            attention_head_dim=4,
            resnet_time_scale_shift="scale_shift",
            class_embed_type=None,
        ),
        movq=VQModel(
            block_out_channels=[32, 64],
            down_block_types=["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
            in_channels=3,
            latent_channels=4,
            layers_per_block=1,
            norm_num_groups=8,
            norm_type="spatial",
            num_vq_embeddings=12,
            out_channels=3,
            up_block_types=["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
            vq_embed_dim=4,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type="epsilon",
            thresholding=False,
        ),
    )
    parts = {f"prior_{name}": part for name, part in prior.components.items()}
    folders = folder / "decoder", folder / "prior", folder / "combined"
    decoder.save_pretrained(folders[0], safe_serialization=True)
    prior.save_pretrained(folders[1], safe_serialization=True)
    KandinskyV22InpaintCombinedPipeline(**decoder.components, **parts).save_pretrained(
        folders[2], safe_serialization=True
    )
    return folders
