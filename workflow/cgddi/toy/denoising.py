"""The tiny tokenizer, text encoder and U-Net of the base model, and their joint pretraining by v-prediction, resumable to the byte.

The learning rate stays constant until a last fifth cools it down (Haegele et al. 2024), so that a longer training goes on where a
shorter one began to cool.
"""

import copy
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from cgddi.core.errors import UserError
from cgddi.job.checkpoint import Checkpoint, Terminated, Termination

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


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids (N, 48) of texts, padded as the pipelines pad them."""
    return tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt").input_ids


COOL_DOWN = 0.2
"""Share of the steps in which the learning rate falls."""
FLOOR = 0.01
"""Share of the learning rate that the last step has."""
REPORT_EVERY = 100


@dataclass(frozen=True)
class Settings:
    """Settings of the joint pretraining; ``steps`` is the length of the whole schedule."""

    steps: int
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    warmup: int = 100
    ema_decay: float = 0.998
    caption_dropout: float = 0.10
    weight_decay: float = 1e-2

    @property
    def cooling_from(self) -> int:
        """Steps before the learning rate begins to fall."""
        return self.steps - int(COOL_DOWN * self.steps)

    def shared(self) -> dict[str, object]:
        """What trainings of any length have in common until they cool down."""
        return {name: value for name, value in asdict(self).items() if name != "steps"}


def learning_rate_at(step: int, settings: Settings) -> float:
    """Learning rate of a 0-based step: linear warm-up, constant, then 1 - sqrt down to a hundredth in the last fifth."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    if step < settings.cooling_from:
        return settings.learning_rate
    progress = (step + 1 - settings.cooling_from) / (settings.steps - settings.cooling_from)
    return settings.learning_rate * (FLOOR + (1 - FLOOR) * (1 - math.sqrt(progress)))


@dataclass(frozen=True)
class Examples:
    """What is learnt.

    Args:
        latents: (N, 4, 16, 16) of the photos.
        tokens: (N, 48), the captions.
        empty: (48,), the caption that drop-out puts in.
    """

    latents: torch.Tensor
    tokens: torch.Tensor
    empty: torch.Tensor


class Pretraining:
    """One training of ``unet`` and ``text_encoder``, in place.

    Args:
        steady, cooling: where the state is kept until the learning rate begins to fall, and after that. A longer training goes on
            from the first.
        compiled: run the U-Net through torch.compile (up to a third faster on two CPU threads, after a minute or two).
        every: steps between two states.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text_encoder: CLIPTextModel,
        scheduler: DDIMScheduler,
        examples: Examples,
        settings: Settings,
        generator: torch.Generator,
        steady: Checkpoint,
        cooling: Checkpoint,
        compiled: bool = False,
        every: int = 100,
    ):
        self.examples, self.settings, self.generator = examples, settings, generator
        self.steady, self.cooling, self.every = steady, cooling, every
        self.text_encoder = text_encoder
        self.models = torch.nn.ModuleList([unet, text_encoder]).train()
        self.device = next(unet.parameters()).device
        self.average = copy.deepcopy(self.models).requires_grad_(False)
        trained = [name for name, parameter in self.models.named_parameters() if parameter.requires_grad]
        self.parameters = {name: self.models.get_parameter(name) for name in trained}
        self.averaged = {name: self.average.get_parameter(name) for name in trained}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=settings.weight_decay
        )
        self.cumulative = scheduler.alphas_cumprod.to(self.device)
        self.predict = torch.compile(unet) if compiled else unet
        self.running: float | None = None

    def step(self, step: int) -> torch.Tensor:
        """One optimizer step, and the averaged weights' own; the loss (), detached."""
        settings, examples, draw = self.settings, self.examples, self.generator
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(step, settings)
        pick = torch.randint(len(examples.latents), (settings.batch_size,), generator=draw)
        clean = examples.latents[pick].to(self.device)
        ids = examples.tokens[pick].clone()
        ids[torch.rand(len(ids), generator=draw) < settings.caption_dropout] = examples.empty
        noise = torch.randn(clean.shape, generator=draw).to(self.device)
        # One timestep in each equal slice of the range: less variance than independent draws.
        slices = (torch.arange(len(clean)) + torch.rand(len(clean), generator=draw)) / len(clean)
        last = len(self.cumulative) - 1
        time = (slices * len(self.cumulative)).long().clamp_max(last).to(self.device)
        signal = self.cumulative[time].sqrt()[:, None, None, None]
        spread = (1 - self.cumulative[time]).sqrt()[:, None, None, None]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            context = self.text_encoder(ids.to(self.device)).last_hidden_state
            predicted = self.predict(signal * clean + spread * noise, time, context).sample
        # Lesions weigh no more than skin: a weight that depends on what is to be drawn makes the model draw more of it.
        loss = (predicted.float() - (signal * noise - spread * clean)).square().mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), 1.0)
        self.optimizer.step()
        decay = min(settings.ema_decay, (step + 1) / (step + 10))
        now = [parameter.detach() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.averaged.values()), now, 1.0 - decay)
        return loss.detach()

    def run(self, report: Callable[[int, float], None] | None = None) -> None:
        """Train to the end, from the last state if there is one, and leave the averaged (EMA) weights in the models.

        Args:
            report: called with (step, running loss) every 100 steps.

        Raises:
            FloatingPointError: the loss is not finite.
            UserError: a longer training's state is here, which has passed the step where this one would cool down.
            Terminated: SIGTERM came; the state is saved.
        """
        settings = self.settings
        with Termination() as termination:
            for step in range(self._resume(), settings.steps):
                loss, done = self.step(step), step + 1
                if done % REPORT_EVERY == 0 or done == settings.steps:
                    self._look(float(loss), done, report)
                if done % self.every == 0 or done in (settings.cooling_from, settings.steps) or termination.asked:
                    self._save(done)
                if termination.asked:
                    raise Terminated
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.averaged[name])
        self.models.eval()

    def _look(self, value: float, done: int, report: Callable[[int, float], None] | None) -> None:
        if not math.isfinite(value):
            raise FloatingPointError(f"pretraining loss is {value} at step {done}: lower the learning rate")
        self.running = value if self.running is None else 0.8 * self.running + 0.2 * value
        if report:
            report(done, self.running)

    def _save(self, done: int) -> None:
        tensors = {"generator": self.generator.get_state()}
        for name, parameter in self.parameters.items():
            tensors |= {f"value/{name}": parameter.data, f"average/{name}": self.averaged[name]}
            tensors |= {f"{key}/{name}": value for key, value in self.optimizer.state[parameter].items()}
        where = self.steady if done <= self.settings.cooling_from else self.cooling
        where.save(tensors, {"step": done, "running": self.running})

    def _resume(self) -> int:
        """Take up the last state; gives the steps that were done."""
        cooling = self.cooling.load(needed=("step", "running"))
        saved = cooling or self.steady.load(needed=("step", "running"))
        if saved is None:
            return 0
        tensors, facts = saved
        done = int(facts["step"])
        if cooling is None and done > self.settings.cooling_from:
            least = math.ceil(done / (1 - COOL_DOWN))
            raise UserError(
                f"{self.steady.path}: {done} steps are done at the full learning rate, and a training of {self.settings.steps} "
                f"cools down before that. Give --steps {least} or more, or another --state."
            )
        self.generator.set_state(tensors.pop("generator"))
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "value":
                self.parameters[name].data.copy_(value)
            elif kind == "average":
                self.averaged[name].copy_(value)
            else:
                state = self.optimizer.state[self.parameters[name]]
                state[kind] = value if kind == "step" else value.to(self.device)
        self.running = facts["running"]
        return done
