"""The trainer of tokens and adapters, to be read from top to bottom: what is built, the step, the run, what is watched, the state.

A stage makes the parts (backbone, `TrainingData`, the parameters to train) and calls `Trainer(...).run()`. accelerate does device,
precision, gradient scaling, processes and trackers: parameters and AdamW's averages are float32, gradients are reduced over
processes and unscaled before they are clipped. `num_processes` trains on several devices of a node (`job/launch.py`); on a CPU
equal numbers of processes give equal bytes.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from torch import nn
from tqdm import tqdm

from cgddi.core.archive import DISTRIBUTIONS, installed_versions
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.core.seeds import seed_for
from cgddi.core.settings import is_neutral
from cgddi.diffusion.backbone import Backbone, Prompts
from cgddi.diffusion.data import Batch, TrainingData, normal
from cgddi.diffusion.graphs import GraphedStep
from cgddi.diffusion.log import TrainingLog
from cgddi.diffusion.settings import TrainingSettings
from cgddi.job import gpu
from cgddi.job.checkpoint import Checkpoint, Terminated, Termination, exit_on_sigterm
from cgddi.job.spec import need, settings_of

Settings = TypeVar("Settings", bound=TrainingSettings)

VALIDATION = (4, 4)
"""Photos of each tone, the first ones, and timesteps of each in the losses by tone: 48 forward passes, 0.3 % (lora) to 1.4 %
(embedding) of the work between two."""


def new_accelerator(settings: TrainingSettings, device: torch.device | str, logs: Path | None = None) -> Accelerator:
    """accelerate, set up for one training.

    Args:
        device: "cpu" keeps to the CPU where there is a GPU.
        logs: folder and name of the run's logs (see `TrainingLog`).
    """
    cpu = torch.device(device).type == "cpu"
    return Accelerator(
        mixed_precision=gpu.mixed_precision(settings.precision, torch, cpu),
        gradient_accumulation_steps=settings.accumulation,
        cpu=cpu,
        log_with=TrainingLog.trackers(logs),
    )


def training_job(model: type[Settings], spec: Mapping[str, Any]) -> tuple[Settings, list[Any]]:
    """The settings of a training job, and what of its spec its checkpoint depends on: all but keys that change no result.

    Raises:
        UserError: a spec that lacks keys, or without images.
        InvalidInput: settings that the stage's model refuses.
    """
    concept, images, *_ = need(spec, "concept", "images", "model", "seed")
    if not images:
        raise UserError(f"concept {concept['slug']}: no training image. Give it one, or leave the concept out.")
    settings = settings_of(model, spec)
    neutral = {name for name in model.model_fields if is_neutral(model, name)}
    key = {**getattr(spec, "planned", spec), "settings": settings.model_dump(mode="json", exclude=neutral)}
    return settings, [key, installed_versions(DISTRIBUTIONS)]


class Network(nn.Module):
    """The frozen denoiser with what is trained in it: what accelerate prepares.

    A denoiser in half precision runs as it is, without autocast: that would cast each layer's trained weights by themselves, and
    norms to float32 and back. Trained float32 weights in it are copied to its type once per pass instead.
    """

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone, self.denoiser = backbone, backbone.denoiser
        self.wide = [
            (module._parameters, name, parameter)
            for module in self.denoiser.modules()
            for name, parameter in module._parameters.items()
            if parameter is not None and parameter.requires_grad and parameter.dtype != backbone.dtype
        ]

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        """Prediction (B, C, h, w) for noisy latents (B, C, h, w), timesteps (B,) and B encoded prompts."""
        kind = self.backbone.dtype
        if kind == torch.float32:
            return self.backbone.denoise(noisy, timesteps, prompts)
        copies = _Copies.apply(kind, *(parameter for *_, parameter in self.wide)) if self.wide else ()
        try:
            for (holder, name, _), copy in zip(self.wide, copies, strict=True):
                holder[name] = copy
            with torch.autocast(noisy.device.type, enabled=False):
                return self.backbone.denoise(noisy, timesteps, prompts)
        finally:
            for holder, name, parameter in self.wide:
                holder[name] = parameter


class _Copies(torch.autograd.Function):
    """Tensors in another number type, all by one operator, and so their gradients."""

    @staticmethod
    def forward(ctx, kind: torch.dtype, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.kinds = [tensor.dtype for tensor in tensors]
        return tuple(_cast(tensors, [kind] * len(tensors)))

    @staticmethod
    def backward(ctx, *grads: torch.Tensor):
        return None, *_cast(grads, ctx.kinds)


def _cast(tensors: Sequence[torch.Tensor], kinds: Sequence[torch.dtype]) -> list[torch.Tensor]:
    made = [torch.empty_like(tensor, dtype=kind) for tensor, kind in zip(tensors, kinds, strict=True)]
    torch._foreach_copy_(made, list(tensors))
    return made


@dataclass
class TrainingHistory:
    """What a run gave besides its parameters: one line of metrics per logging step, and the step it went on from."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    resumed_at: int = 0


class Trainer:
    """One training run.

    Args:
        backbone: the frozen model; what is trained is in place.
        encode: prompt numbers (B,) -> encoded prompts, differentiable where a token is trained.
        parameters: what is trained, by name; float32.
        preview: draws what there is now, after a number of steps.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        backbone: Backbone,
        data: TrainingData,
        encode: Callable[[torch.Tensor], Prompts],
        parameters: Mapping[str, nn.Parameter],
        settings: TrainingSettings,
        learning_rate: float,
        checkpoint: Checkpoint,
        log: TrainingLog,
        label: str,
        preview: Callable[[int], None] | None = None,
    ):
        self.accelerator, self.schedule, self.data, self.parameters = accelerator, backbone.schedule, data, parameters
        self.settings, self.checkpoint, self.log, self.label = settings, checkpoint, log, label
        self.encode, self.preview = encode, preview
        self.history = TrainingHistory()
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(
            parameters.values(), lr=learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        kind = settings.lr_schedule if settings.lr_schedule != "constant" else "constant_with_warmup"
        self.rates = get_scheduler(kind, optimizer, num_warmup_steps=settings.warmup, num_training_steps=settings.steps)
        # Gradients of several processes meet once a step, in `forward_backward`: they come from the text encoders, too.
        self.network = accelerator.prepare_model(Network(backbone), evaluation_mode=True)
        self.optimizer = accelerator.prepare(optimizer)
        self.share = slice(accelerator.process_index, None, accelerator.num_processes)
        self._window: list[tuple[float, float]] = []  # per step: mean loss and gradient norm
        self._pending: list[tuple[int, torch.Tensor, torch.Tensor]] = []  # the same, still on the device
        self._saved_at = 0
        self._graph: GraphedStep | None = None

    # -- the step -------------------------------------------------------------------------------------------------------------
    def train_step(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """One optimizer step: sample, noise, predict, loss, backward, step.

        The loss is the mean over each stream's images, weighted (DreamBooth's prior preservation, Ruiz et al. 2023, eq. 2).

        Returns:
            Losses of this process's images (n,) and the gradient's norm (), on the device, detached.
        """
        losses = self._pass(self.data.at(step, self.share))
        norm = self.accelerator.clip_grad_norm_(list(self.parameters.values()), self.settings.clip or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=self._graph is None)
        self.rates.step()
        return losses, norm

    def forward_backward(self, batch: Batch) -> torch.Tensor:
        """Losses (n,) of a step's batch, detached; its gradients are added to the parameters'.

        The prompts of all parts are encoded at once. Where something learns in the text encoders, each part's gradient ends at its
        encoded prompts, and one pass takes them on from there: the chain rule, in two pieces.
        """
        size = len(batch["prompt"]) // self.settings.accumulation
        texts = self.encode(batch["prompt"]).split(size)
        ends = [text.leaf() for text in texts]
        pieces = zip(*(value.split(size) for value in batch.values()), strict=True)
        parts = (dict(zip(batch, values, strict=True)) for values in pieces)
        losses = [self._part(part, text) for part, text in zip(parts, ends, strict=True)]
        pairs = [
            (whole, end.grad)
            for text, leaf in zip(texts, ends, strict=True)
            for whole, end in zip(text.tensors().values(), leaf.tensors().values(), strict=True)
            if whole.requires_grad
        ]
        if pairs:
            torch.autograd.backward(*zip(*pairs, strict=True))
        if self.accelerator.num_processes > 1:
            grads = [parameter.grad for parameter in self.parameters.values()]
            shared = self.accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), "mean")
            for grad, mean in zip(grads, shared.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(mean.view_as(grad))
        return torch.cat(losses)

    def _part(self, batch: Batch, text: Prompts) -> torch.Tensor:
        """Losses (n,) of a part of a step, detached; its gradients are added, divided by the number of parts."""
        noisy = self.schedule.add_noise(batch["latents"], batch["noise"], batch["timesteps"])
        predicted = self.network(noisy, batch["timesteps"], text)
        target = self.schedule.target(batch["latents"], batch["noise"], batch["timesteps"])
        error = (predicted.float() - target).square()
        each = (error * batch["weights"] if "weights" in batch else error).mean(dim=(1, 2, 3))
        kinds = zip(self.data.streams, each.split(self.data.counts), strict=True)
        self.accelerator.backward(sum(stream.weight * of_kind.mean() for stream, of_kind in kinds))
        return each.detach()

    def _pass(self, batch: Batch) -> torch.Tensor:
        """The same, on a GPU as one graph. Not over several processes, whose gradients are reduced on the way."""
        device, alone = batch["latents"].device, self.accelerator.num_processes == 1
        if not (self.settings.cuda_graphs and alone and device.type == "cuda"):
            return self.forward_backward(batch)
        if self._graph is None:
            self._graph = GraphedStep(self.forward_backward, list(self.parameters.values()), batch)
        return self._graph(batch)

    # -- the run --------------------------------------------------------------------------------------------------------------
    def run(self) -> TrainingHistory:
        """Train to the end, from the last checkpoint if there is one; afterwards the parameters hold the result.

        Raises:
            UserError: a loss or gradient is not a number; names the step, the images and the last good checkpoint.
            Terminated: SIGTERM came; the state is saved.
        """
        settings, start = self.settings, self._resume()
        # One of several processes cannot know that the others stop at its step: they leave at once, without another state.
        with (
            Termination() if self.accelerator.num_processes == 1 else exit_on_sigterm() as termination,
            tqdm(total=settings.steps, initial=start, desc=self.label, unit="step", mininterval=2) as bar,
        ):
            for step in range(start, settings.steps):
                self._pending.append((step, *self.train_step(step)))
                done = step + 1
                bar.update()
                if self._due(done, settings.log_every):
                    self._write_line(done, bar)
                if self._due(done, settings.validate_every):
                    self._note({"step": done, **self.losses_by_tone()})
                due = (
                    self._due(done, settings.grid_every) and done < settings.steps
                )  # the result gets a grid of its own
                if self.preview and due and self.accelerator.is_main_process:
                    self.preview(done)
                # Asked last: a signal during a preview counts too.
                leave = termination is not None and termination.asked
                if leave or self._due(done, settings.checkpoint_every):
                    self._save(done)
                if leave:
                    raise Terminated
        return self.history

    def _due(self, done: int, every: int) -> bool:
        """Whether something that happens every so many steps, and after the last, happens now; never for 0."""
        return every > 0 and (done % every == 0 or done == self.settings.steps)

    def rate(self, step: int) -> float:
        """Learning rate of a step (0-based)."""
        return self.rates.base_lrs[0] * self.rates.lr_lambdas[0](step)

    @property
    def decay(self) -> float:
        """What the whole run leaves of a parameter that never gets a gradient: the product of 1 - rate * weight_decay (decoupled
        decay, Loshchilov & Hutter 2019, algorithm 2)."""
        return math.prod(1 - self.rate(step) * self.settings.weight_decay for step in range(self.settings.steps))

    # -- what is watched ------------------------------------------------------------------------------------------------------
    @torch.no_grad()
    def losses_by_tone(self) -> dict[str, float]:
        """Mean loss over training photos of each tone (the first stream's) with fixed noise and timesteps: {"loss_light": ...}.

        The same images, timesteps and noise every time, so that its change is the training's; none of it is the training's own.
        """
        stream, bank, (per_tone, times) = self.data.streams[0], self.data.bank, VALIDATION
        found, last = {}, self.schedule.num_train_timesteps
        for tone in TONES:
            images = [n for n, photo in enumerate(stream.photos) if photo.tone == tone][:per_tone]
            if not images:
                continue
            image = torch.tensor(images).repeat_interleave(times)
            steps = torch.tensor([(2 * t + 1) * last // (2 * times) for t in range(times)] * len(images))
            prompt = torch.tensor([self.data.prompts.index(stream.captions[n][0]) for n in image])
            noise = normal(seed_for(stream.seed, "validation", tone), (len(image), *bank.mean.shape[2:]))
            image, steps, prompt, noise = (part.to(bank.mean.device) for part in (image, steps, prompt, noise))
            clean = bank.mean[image, 0]
            noisy = self.schedule.add_noise(clean, noise, steps)
            predicted = self.network(noisy, steps, self.encode(prompt)).float()
            error = (predicted - self.schedule.target(clean, noise, steps)).square()
            found[f"loss_{tone}"] = float((error if bank.weights is None else error * bank.weights[image, 0]).mean())
        return found

    def _check(self) -> None:
        """Look at the losses since the last look (one wait for the device, not one per step)."""
        if not self._pending:
            return
        losses = torch.stack([each for _, each, _ in self._pending]).float()
        norms = torch.stack([norm for _, _, norm in self._pending]).float()
        means = self.accelerator.reduce(losses.mean(dim=1), "mean").tolist()
        losses, norms = losses.cpu(), norms.cpu()
        # float16 finds its scale by gradients that overflow: such a step is left out, and its norm says nothing.
        scaling = self.accelerator.scaler is not None and self.accelerator.scaler.get_scale() >= 1
        bad = ~torch.isfinite(losses).all(dim=1) | ~(torch.isfinite(norms) | scaling)
        for number in bad.nonzero().flatten().tolist()[:1]:
            step = self._pending[number][0]
            names = self.data.images_of(step, self.share)
            wrong = (~torch.isfinite(losses[number])).nonzero().flatten().tolist()
            images = sorted({names[i] for i in wrong} or set(names))
            raise UserError(
                f"{self.label}: the loss or its gradient is not a finite number at step {step + 1} of {self.settings.steps}; "
                f"images: {', '.join(images)}. Last good checkpoint: step {self._saved_at} ({self.checkpoint.path}). Look at these "
                "images, or lower the learning rate or use precision fp32, and run again."
            )
        norms = norms.nan_to_num(0.0, posinf=0.0)  # of a step that was left out
        self._window += zip(means, norms.tolist(), strict=True)
        self._pending.clear()

    def _write_line(self, done: int, bar: tqdm) -> None:
        self._check()
        if self._window:
            loss, norm = (sum(values) / len(values) for values in zip(*self._window, strict=True))
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._note({"step": done, "lr": self.rate(done - 1), "loss": loss, "grad_norm": norm})
            self._window = []

    def _note(self, line: dict[str, Any]) -> None:
        self.history.lines.append(line)
        self.log(line)

    # -- the state ------------------------------------------------------------------------------------------------------------
    def _save(self, done: int) -> None:
        self._check()
        tensors = {f"value/{name}": parameter.data for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            tensors |= {f"{key}/{name}": value for key, value in self.optimizer.state[parameter].items()}
        facts = {"step": done, "history": self.history.lines, "window": self._window}
        if self.accelerator.scaler is not None:
            facts["scaler"] = self.accelerator.scaler.state_dict()
        if self.accelerator.is_main_process:
            self.checkpoint.save(tensors, facts)
        self._saved_at = done

    def _resume(self) -> int:
        """Take up the last state; gives the steps that were done."""
        saved = self.checkpoint.load(needed=("step", "history", "window"))
        if saved is None:
            return 0
        tensors, facts = saved
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            parameter = self.parameters[name]
            if kind == "value":
                parameter.data.copy_(value)
            else:
                self.optimizer.state[parameter][kind] = value.to(parameter.device)
        if "scaler" in facts and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self._window = [tuple(pair) for pair in facts["window"]]
        for line in facts["history"]:
            self._note(line)
        self.rates.last_epoch = int(facts["step"]) - 1
        self.rates.step()
        self.history.resumed_at = self._saved_at = int(facts["step"])
        return self._saved_at
