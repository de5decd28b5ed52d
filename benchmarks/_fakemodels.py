"""The product's own parts on the fake GPU of `_fakecuda`: base models without weights, trainers, samplers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from benchmarks import _engine
from benchmarks._fakecuda import CUDA, fake_parameters


@contextlib.contextmanager
def weightless() -> Iterator[None]:
    """Modules made in this block have shapes only."""
    with _disable_current_modes(), torch.device("meta"):
        yield


def backbone(folder: Path, precision: str = "bf16"):
    """The base model of a folder on the fake GPU: its configs and tokenizers are read, weights are not."""
    from cgddi.diffusion import weights
    from cgddi.diffusion.backbone import FAMILIES
    from cgddi.job.runtime import torch_dtype

    family = FAMILIES[weights.model_index(folder)["_class_name"]]

    class Weightless(family):
        def _component(self, part, cls, **options):
            kind = options.get("torch_dtype") or options.get("dtype")
            with weightless():
                if part.startswith("text_encoder"):
                    module = cls(cls.config_class.from_pretrained(self.folder / part))
                else:
                    module = cls.from_config(cls.load_config(self.folder, subfolder=part))
            return fake_parameters(module, kind)

    return Weightless(folder, CUDA, torch_dtype(precision))


def sd21(folder: Path) -> Path:
    """Stable Diffusion 2.1's folder without its weights."""
    if not (folder / "model_index.json").is_file():
        with weightless():
            _engine.sd21_model(folder, weights=False)
    return folder


def sdxl(folder: Path) -> Path:
    """SDXL base's folder (its published configs) without its weights."""
    import shutil

    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    sd = sd21(folder / "sd21")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.copytree(sd / "tokenizer", folder / name)
    with weightless():
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
        parts = {
            "text_encoder": CLIPTextModel(clip_text(768, 12)),
            "text_encoder_2": CLIPTextModelWithProjection(clip_text(1280, 32, 1280)),
            "unet": unet,
            "vae": AutoencoderKL.from_config(AutoencoderKL.load_config(sd, subfolder="vae"), scaling_factor=0.13025),
        }
    parts["scheduler"] = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    return _engine.save_model(folder, parts, weights=False, kind="StableDiffusionXLPipeline")


def clip_text(width: int, layers: int, projection: int = 512):
    """A CLIP text encoder's config: OpenAI's shapes, heads of 64 channels."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=projection,
    )


def photos(count: int, size: int, prefix: str):
    """Random photos of the three tones."""
    from cgddi.core.images import TONES
    from cgddi.diffusion.data import Photo

    draw = np.random.default_rng(0)
    made = []
    for number in range(count):
        pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
        made.append(Photo(f"{prefix}{number}", TONES[number % 3], f"{prefix}{number}", pixels, None, {}))
    return made


def _trainer(model, settings, streams, encode, parameters, rate: float):
    from cgddi.diffusion.cache import Store
    from cgddi.diffusion.data import TrainingData
    from cgddi.diffusion.log import TrainingLog
    from cgddi.diffusion.train import Trainer, new_accelerator
    from cgddi.job.checkpoint import Checkpoint

    accelerator = new_accelerator(settings, model.device)
    data = TrainingData(model, Store(None), streams, settings, settings.accumulation)
    log = TrainingLog(accelerator, None)
    given = settings, rate, Checkpoint(None, "fake", None), log, "fake"
    return Trainer(accelerator, model, data, encode(data), parameters(), *given)


def lora_trainer(model, **settings):
    """A trainer of `cgddi lora`, as `train_lora` makes it."""
    from cgddi.diffusion import adapters
    from cgddi.diffusion.cache import Store
    from cgddi.diffusion.data import ImageStream, caption, prompts_of
    from cgddi.stages.lora.settings import LoraSettings

    how = LoraSettings(cuda_graphs=False, **settings)
    model.add_token("<c>", [torch.zeros(1, encoder.config.hidden_size) for encoder in model.text_encoders])
    ours, priors = photos(1, how.image_size, "p"), photos(1, how.image_size, "c")
    streams = [
        ImageStream(1, ours, [[caption(how.prompt, one, how, "<c>")] for one in ours], 1.0, how.instances),
        ImageStream(2, priors, [[caption(how.class_prompt, one, how)] for one in priors], 1.0, how.priors_per_step),
    ]

    def layers():
        return adapters.add_lora(model.denoiser, how.target_modules, how.rank, how.alpha, "c", 1)

    def encode(data):
        return prompts_of(model, Store(None), data.prompts).__getitem__

    return _trainer(model, how, streams, encode, layers, how.learning_rate)


def token_trainer(model, **settings):
    """A trainer of `cgddi embedding`, as `train_token` makes it."""
    from cgddi.diffusion.data import ImageStream, caption
    from cgddi.stages.embedding.settings import EmbeddingSettings
    from cgddi.stages.embedding.train import prompt_encoder

    how = EmbeddingSettings(cuda_graphs=False, **settings)
    start = [torch.zeros(how.vectors, encoder.config.hidden_size) for encoder in model.text_encoders]
    rows = {f"rows.{number}": holder.rows for number, holder in enumerate(model.add_token("<c>", start))}
    ours = photos(1, how.image_size, "p")
    captions = [[caption(template, photo, how, "<c>") for template in how.prompts] for photo in ours]
    streams = [ImageStream(1, ours, captions, 1.0, how.batch * how.accumulation)]
    return _trainer(model, how, streams, lambda data: prompt_encoder(model, data.prompts), lambda: rows, how.lr)


def sampling(model, batch: int, size: int, **settings) -> tuple[Callable, Callable, Callable]:
    """What a sampler does: draw a batch, one guided call of the network, decode its latents."""
    from cgddi.diffusion.backbone import Prompts
    from cgddi.diffusion.sample import Sampler, SampleSettings

    width = model.denoiser.config.cross_attention_dim
    pooled = torch.zeros(1, model.text_encoders[-1].config.projection_dim) if model.family == "sdxl" else None
    prompt = Prompts(torch.zeros(1, 77, width), pooled)
    sampler = Sampler(model, SampleSettings(**settings), size, batch, prompt)
    shape = batch, *model.latent_shape(size)
    latents, step = torch.empty(shape, device=CUDA), torch.empty((), dtype=torch.int64, device=CUDA)
    both = prompt[[0] * 2 * batch].to(CUDA, model.dtype)

    def draw() -> torch.Tensor:
        return sampler.draw(prompt[[0] * batch], list(range(batch)), torch.zeros(shape), torch.ones(shape))

    return draw, lambda: sampler._guided(latents, step, both), lambda: model.decode(latents)
