"""The tiny tokenizer, text encoder and U-Net of the base model, and their joint pretraining by v-prediction."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

MAX_TOKENS = 48
END = "</w>"
TEXT_WIDTH = 64
LATENT_SIZE = 16


def _byte_alphabet() -> list[str]:
    """The 256 printable stand-ins that byte-level BPE uses for bytes, in byte order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    stand_in = {byte: chr(byte) for byte in printable}
    spare = iter(range(256, 512))
    return [stand_in[byte] if byte in stand_in else chr(next(spare)) for byte in range(256)]


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair encoding run until every word is one symbol: the merges, most frequent pair first.

    Words are in lower-case ASCII; ties go to the pair that sorts first, so the result is deterministic.
    """
    split = [[*word[:-1], word[-1] + END] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for symbols in split for pair in zip(symbols, symbols[1:], strict=False))
        if not pairs:
            return merges
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for symbols in split:
            index = 0
            while index + 1 < len(symbols):
                if (symbols[index], symbols[index + 1]) == best:
                    symbols[index : index + 2] = ["".join(best)]
                index += 1


def build_tokenizer(words: Sequence[str], folder: Path) -> CLIPTokenizer:
    """A tokenizer over all bytes plus one token per word; its vocab.json and merges.txt are put in ``folder``."""
    merges = learn_merges(words)
    alphabet = _byte_alphabet()
    symbols = [*alphabet, *(sign + END for sign in alphabet), *("".join(pair) for pair in merges)]
    symbols = [*dict.fromkeys(symbols), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({symbol: number for number, symbol in enumerate(symbols)}, ensure_ascii=False)
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A two-layer CLIP text model for the toy vocabulary, randomly initialised."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    """A 4.0 M parameter conditional U-Net on 16 x 16 x 4 latents, randomly initialised.

    Attention sits at 8 x 8 and 4 x 4 only: at 16 x 16 it would about double a CPU's step.
    """
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=4,
        out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(64, 96, 96),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def new_scheduler() -> DDIMScheduler:
    """DDIM on v-prediction with zero terminal signal-to-noise and trailing steps."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


@dataclass(frozen=True)
class Settings:
    """Settings of the joint pretraining; ``steps`` is the length of the whole schedule."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    warmup: int = 100
    ema_decay: float = 0.998
    caption_dropout: float = 0.10
    lesion_weight: float = 3.0
    weight_decay: float = 1e-2


def learning_rate_at(step: int, settings: Settings) -> float:
    """Learning rate of a 0-based step: linear warm-up, then a cosine to one hundredth."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    progress = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids (N, 48) of texts, padded as the pipelines pad them."""
    return tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids


def train(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    scheduler: DDIMScheduler,
    latents: torch.Tensor,
    weights: torch.Tensor,
    tokens: torch.Tensor,
    empty: torch.Tensor,
    settings: Settings,
    generator: torch.Generator,
    compiled: bool = False,
    report: Callable[[int, float], None] | None = None,
) -> None:
    """Train ``unet`` and ``text_encoder`` in place and leave the averaged (EMA) weights in them.

    ``latents`` (N, 4, 16, 16) are the photos, ``weights`` (N, 1, 16, 16) the share of lesion in each latent
    pixel, ``tokens`` (N, 48) the captions and ``empty`` (48,) the caption that drop-out puts in.
    ``compiled`` runs the U-Net through torch.compile (up to a third faster on two CPU threads, after a minute or two).
    ``report(step, loss)`` is called every 100 steps.  Raises FloatingPointError when the loss is not finite.
    """
    device = next(unet.parameters()).device
    models = torch.nn.ModuleList([unet, text_encoder]).train()
    average = copy.deepcopy(models).requires_grad_(False)
    parameters = [p for p in models.parameters() if p.requires_grad]
    averaged = [a for a, p in zip(average.parameters(), models.parameters(), strict=True) if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
    )
    cumulative = scheduler.alphas_cumprod.to(device)
    predict = torch.compile(unet) if compiled else unet
    running = None
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        pick = torch.randint(len(latents), (settings.batch_size,), generator=generator)
        clean, lesion = latents[pick].to(device), weights[pick].to(device)
        ids = tokens[pick].clone()
        ids[torch.rand(len(ids), generator=generator) < settings.caption_dropout] = empty
        noise = torch.randn(clean.shape, generator=generator).to(device)
        # One timestep in each equal slice of the range: less variance than independent draws.
        slices = (torch.arange(len(clean)) + torch.rand(len(clean), generator=generator)) / len(clean)
        time = (slices * len(cumulative)).long().clamp_max(len(cumulative) - 1).to(device)
        signal = cumulative[time].sqrt()[:, None, None, None]
        spread = (1 - cumulative[time]).sqrt()[:, None, None, None]
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            context = text_encoder(ids.to(device)).last_hidden_state
            predicted = predict(signal * clean + spread * noise, time, context).sample
        error = (predicted.float() - (signal * noise - spread * clean)) ** 2
        loss = ((1.0 + settings.lesion_weight * lesion) * error).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(settings.ema_decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(averaged, [p.detach() for p in parameters], 1.0 - decay)
        if (step + 1) % 100 == 0 or step + 1 == settings.steps:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError(f"pretraining loss is {value} at step {step + 1}: lower the learning rate")
            running = value if running is None else 0.8 * running + 0.2 * value
            if report:
                report(step + 1, running)
    with torch.no_grad():
        for parameter, value in zip(parameters, averaged, strict=True):
            parameter.copy_(value)
    models.eval()
