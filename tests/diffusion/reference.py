"""Training written a second time, plainly, from the recipe: diffusers, transformers and peft alone, none of our engine.

Only the order of random numbers is shared with the engine: a step's draws are `Philox(key=seed, counter=step)`, four rows of one
number per image (which image, mirrored or not, timestep, prompt), and its noises are `randn` of the seeds of (seed, "noise", step)
and (seed, "posterior", step). Seeds of names are `sha256` of the names joined by \\x1f.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from transformers import CLIPTextModel, CLIPTokenizer

TONES = ("light", "medium", "dark")
LESION, MARKER, RULER = 1, 2, 3


def seed_of(*names) -> int:
    text = "\x1f".join(map(str, names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Reference:
    """The base model, and what both trainings share.

    Args:
        model: its folder.
        settings: the stage's.
        token: as written in prompts.
        rows: (vectors, D), its rows.
    """

    def __init__(self, model, settings, token, rows=None):
        self.s = settings
        self.unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet").requires_grad_(False).eval()
        self.vae = AutoencoderKL.from_pretrained(model, subfolder="vae").requires_grad_(False).eval()
        self.text = CLIPTextModel.from_pretrained(model, subfolder="text_encoder").requires_grad_(False).eval()
        self.tokenizer = CLIPTokenizer.from_pretrained(model / "tokenizer")
        self.schedule = DDPMScheduler.from_pretrained(model, subfolder="scheduler")
        word = getattr(settings, "init_token", "skin")
        embeddings = self.text.get_input_embeddings().weight
        start = embeddings[self.tokenizer.convert_tokens_to_ids(f"{word}</w>")].clone()[None]
        self.tokenizer.add_tokens([token])
        self.text.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.table = self.text.get_input_embeddings().weight
        with torch.no_grad():
            self.table[-1] = start if rows is None else rows

    def latents(self, photo, mirrored):
        pixels = photo.pixels[:, ::-1] if mirrored else photo.pixels
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            found = self.vae.encode(x).latent_dist
        scale = self.vae.config.scaling_factor
        return found.mean[0] * scale, found.std[0] * scale

    def weight(self, photo, mirrored):
        """Loss weights from the mask, of mean 1."""
        mask = torch.from_numpy(photo.mask.copy())
        each = torch.ones(mask.shape)
        each[mask == LESION] = self.s.lesion_weight
        for name in self.s.ignore_mask_classes:
            each[mask == {"background": 0, "marker": MARKER, "ruler": RULER, "skin": 4}[name]] = 0
        cells = (
            each.unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).mean(dim=(1, 3))
        )  # this model's latents are half as wide
        cells = cells.flip(-1) if mirrored else cells
        return cells / cells.mean()

    def caption(self, template, photo, token=""):
        s, text = self.s, template.format(token=token, tone=photo.tone)
        if not s.suffixes:
            return text
        ruler, marker = (bool((photo.mask == n).any()) for n in (RULER, MARKER))
        if ruler and marker:
            return text + s.both_suffix
        return text + (s.ruler_suffix if ruler else s.marker_suffix if marker else "")

    def encode(self, texts):
        ids = self.tokenizer(
            texts, padding="max_length", max_length=self.tokenizer.model_max_length, return_tensors="pt"
        )
        return self.text(ids.input_ids)[0]

    def draw(self, seed, step, count, photos, exponent, templates, token, hflip):
        """The batch of a step: latents, noise, timesteps, captions, weights."""
        often = {tone: sum(p.tone == tone for p in photos) for tone in TONES}
        chances = np.array([float(often[p.tone]) ** -exponent for p in photos])
        edges = np.cumsum(chances / chances.sum())
        u = np.random.Generator(np.random.Philox(key=seed, counter=step)).random((ROWS, count))
        chosen = [photos[int((edges[:-1] <= value).sum())] for value in u[0]]
        mirrored = [value < hflip for value in u[1]]
        times = torch.tensor([int(value * 1000) for value in u[-2]])
        texts = [
            self.caption(templates[int(value * len(templates))], p, token)
            for p, value in zip(chosen, u[-1], strict=True)
        ]
        both = [self.latents(p, m) for p, m in zip(chosen, mirrored, strict=True)]
        noise, posterior = (
            torch.randn(count, *both[0][0].shape, generator=torch.Generator().manual_seed(seed_of(seed, name, step)))
            for name in ("noise", "posterior")
        )
        clean = torch.stack([mean for mean, _ in both]) + torch.stack([std for _, std in both]) * posterior
        weights = torch.stack([self.weight(p, m) for p, m in zip(chosen, mirrored, strict=True)])
        return clean, noise, times, texts, weights

    def losses(self, drawn):
        """Loss of each image of a drawn batch."""
        clean, noise, times, texts, weights = drawn
        noisy = self.schedule.add_noise(clean, noise, times)
        target = (
            noise
            if self.schedule.config.prediction_type == "epsilon"
            else self.schedule.get_velocity(clean, noise, times)
        )
        predicted = self.unet(noisy, times, self.encode(texts)).sample
        return ((predicted - target) ** 2 * weights[:, None]).mean(dim=(1, 2, 3))

    def rate(self, lr, step):
        """Learning rate of a step: rising along a line, then constant, or falling to 0 along a line or half a cosine."""
        if step < self.s.warmup:
            return lr * step / self.s.warmup
        done = (step - self.s.warmup) / (self.s.steps - self.s.warmup)
        return (
            lr * {"constant": 1, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[self.s.lr_schedule]
        )

    def update(self, parameters, state, lr, step):
        """Clipping, and AdamW by its formula (Loshchilov & Hutter 2019, algorithm 2)."""
        norm = torch.sqrt(sum((p.grad**2).sum() for p in parameters))
        shrink = min(1.0, self.s.clip / float(norm)) if self.s.clip else 1.0
        lr = self.rate(lr, step)
        with torch.no_grad():
            for p in parameters:
                grad = p.grad * shrink
                m, v = state.setdefault(p, (torch.zeros_like(p), torch.zeros_like(p)))
                m.mul_(0.9).add_(grad, alpha=0.1)
                v.mul_(0.999).add_(grad**2, alpha=0.001)
                p -= lr * self.s.weight_decay * p
                p -= lr * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
                p.grad = None


ROWS = 4


def learn_token(model, settings, seed, slug, photos):
    """(1, D), the row that textual inversion gives; (prompt-free) settings of the embedding stage."""
    token = f"<{slug}>"
    ref = Reference(model, settings, token)
    row = ref.table[-1:].detach().clone().requires_grad_(True)
    count = settings.batch * settings.accumulation
    lr = settings.learning_rate * (count if settings.scale_lr else 1)
    state = {}
    for step in range(settings.steps):
        ref.text.get_input_embeddings().weight = torch.nn.Parameter(ref.table.detach())
        drawn = ref.draw(
            seed_of(seed, "embedding", slug),
            step,
            count,
            photos,
            settings.tone_exponent,
            settings.prompts,
            token,
            settings.hflip,
        )
        table = torch.cat([ref.table[:-1].detach(), row])
        real = torch.nn.functional.embedding
        torch.nn.functional.embedding = lambda ids, weight, *a, table=table, real=real, **k: real(
            ids, table if weight.shape == table.shape else weight, *a, **k
        )
        try:
            ref.losses(drawn).mean().backward()
        finally:
            torch.nn.functional.embedding = real
        ref.update([row], state, lr, step)
    return row.detach()


def learn_adapter(model, settings, seed, slug, photos, canvases, rows):
    """{layer: (A, B)} of a LoRA with prior preservation; `canvases` are those that may serve as priors."""
    token = f"<{slug}>"
    ref = Reference(model, settings, token, rows)
    ref.unet.add_adapter(
        LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=list(settings.target_modules))
    )
    named = {n: p for n, p in ref.unet.named_parameters() if "lora_" in n}
    with torch.no_grad():
        for name, p in named.items():
            if "lora_A" in name:
                layer = name.split(".lora_A")[0]
                generator = torch.Generator().manual_seed(seed_of(seed, "lora-start", slug, layer))
                p.copy_(torch.randn(p.shape, generator=generator) / settings.rank)
    priors = priors_of(canvases, settings, seed)
    state = {}
    for step in range(settings.steps):
        common = {"token": token, "hflip": settings.hflip}
        drawn = ref.draw(
            seed_of(seed, "lora", slug),
            step,
            settings.instances,
            photos,
            settings.tone_exponent,
            [settings.prompt],
            **common,
        )
        loss = ref.losses(drawn).mean()
        if priors and settings.priors_per_step:
            drawn = ref.draw(
                seed_of(seed, "lora", slug, "prior"), step, settings.priors_per_step, priors, settings.prior_tone_exponent,
                [settings.class_prompt], **common,
            )  # fmt: skip
            loss = loss + settings.prior_weight * ref.losses(drawn).mean()
        loss.backward()
        ref.update(list(named.values()), state, settings.learning_rate, step)
    scale = settings.alpha / settings.rank
    layers = {name.split(".lora_A")[0] for name in named if "lora_A" in name}
    return {
        layer: (
            named[f"{layer}.lora_A.default.weight"].detach(),
            named[f"{layer}.lora_B.default.weight"].detach() * scale,
        )
        for layer in layers
    }


def priors_of(canvases, settings, seed):
    """At most `prior_per_tone` canvases of each tone, the first by the hash of (seed, "prior", id)."""
    found = []
    for tone in TONES:
        ranked = sorted((c for c in canvases if c.tone == tone), key=lambda c: seed_of(seed, "prior", c.id))
        found += sorted(ranked[: settings.prior_per_tone], key=lambda c: c.id)
    return found
