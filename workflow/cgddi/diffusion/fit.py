"""The training loop of tokens and adapters: flat parameters, AdamW, counters for randomness, checkpoints, checks."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from cgddi.diffusion.batches import Batches, split_batch
from cgddi.diffusion.checkpoint import Checkpoint, Terminated, Termination
from cgddi.errors import UserError


@dataclass(frozen=True)
class Plan:
    """How to optimise.

    Args:
        steps: optimizer steps.
        lr: learning rate after warm-up.
        schedule: "constant", "linear" or "cosine" (both to 0).
        warmup: steps of linear warm-up.
        betas, eps, weight_decay: of AdamW (Loshchilov & Hutter 2019).
        clip: largest gradient norm per adapter; 0 clips nothing.
        ema: decay of an exponential moving average whose value is the result; 0 keeps none.
        accumulation: parts into which each batch is cut to save memory.
        checkpoint_every, log_every, validate_every, preview_every: in steps; 0 is never (of the last two).
    """

    steps: int
    lr: float
    schedule: str = "constant"
    warmup: int = 0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 1e-2
    clip: float = 0.0
    ema: float = 0.0
    accumulation: int = 1
    checkpoint_every: int = 100
    log_every: int = 10
    validate_every: int = 0
    preview_every: int = 0

    def rate(self, step: int) -> float:
        """Learning rate of a step (0-based)."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        factor = {"constant": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}[self.schedule]
        return self.lr * factor


class Flat:
    """Parameters of K adapters as views of one (K, P) tensor, their gradients of another: one optimizer kernel per step.

    Args:
        parameters: name -> parameter whose first dimension is K (any shape when K is 1); changed in place to views.
        adapters: K.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], adapters: int):
        sizes = {name: p.numel() // adapters for name, p in parameters.items()}
        device = next(iter(parameters.values())).device
        self.value = nn.Parameter(torch.empty(adapters, sum(sizes.values()), device=device))
        self.value.grad = torch.zeros_like(self.value)
        start = 0
        for name, parameter in parameters.items():
            part = slice(start, start + sizes[name])
            start += sizes[name]
            self.value.data[:, part] = parameter.data.reshape(adapters, -1)
            parameter.requires_grad_(True)
            parameter.data = _view(self.value.data[:, part], parameter.shape, adapters)
            parameter.grad = _view(self.value.grad[:, part], parameter.shape, adapters)


def _view(part: torch.Tensor, shape: torch.Size, adapters: int) -> torch.Tensor:
    return part.view(shape) if adapters == 1 else part.unflatten(1, shape[1:])


@dataclass
class Outcome:
    """What a run gave besides its parameters: one line of metrics per logging step, and the last losses by tone."""

    history: list[dict[str, Any]] = field(default_factory=list)
    resumed_at: int = 0


class Fit:
    """One training run.

    Args:
        parameters: what is trained (see `Flat`).
        adapters: K.
        losses: a batch (see `Batches.at`) -> (K, n) loss of every sample, and the scalar to minimise.
        batches: the data.
        plan: how to optimise.
        checkpoint: where the state is kept.
        validate: step -> numbers to log, called every `validate_every` steps.
        observe: called with each metrics line (TensorBoard, files).
        label: for the progress bar.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        adapters: int,
        losses: Callable[[Mapping[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor]],
        batches: Batches,
        plan: Plan,
        checkpoint: Checkpoint,
        validate: Callable[[], dict[str, float]] | None = None,
        observe: Callable[[dict[str, Any]], None] | None = None,
        label: str = "train",
    ):
        self.flat = Flat(parameters, adapters)
        self.adapters, self.losses, self.batches, self.plan = adapters, losses, batches, plan
        self.checkpoint, self.validate, self.observe, self.label = checkpoint, validate, observe, label
        value = self.flat.value
        self.cuda = value.device.type == "cuda"
        lr = torch.tensor(plan.lr, device=value.device) if self.cuda else plan.lr
        self.optimizer = torch.optim.AdamW(
            [value],
            lr=lr,
            betas=plan.betas,
            eps=plan.eps,
            weight_decay=plan.weight_decay,
            fused=True,
            capturable=self.cuda,
        )
        self.average = value.detach().clone() if plan.ema else None
        self.outcome = Outcome()
        self.preview: Callable[[int], None] | None = None
        self._window: list[list[float]] = []
        self._last = self._saved_at = 0
        self._replay: Callable[[Mapping[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor]] | None = None

    # -- one step -------------------------------------------------------------------------------------------------------------
    def update(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient, clipping and optimizer step on one batch.

        Returns:
            Losses per sample (K, n) and gradient norms (K,), on the device, detached.
        """
        value = self.flat.value
        value.grad.zero_()
        parts = split_batch(batch, self.adapters, self.plan.accumulation)
        found = []
        for part in parts:
            each, loss = self.losses(part)
            (loss / len(parts)).backward()
            found.append(each.detach())
        norms = torch.linalg.vector_norm(value.grad, dim=1)
        if self.plan.clip:
            value.grad.mul_((self.plan.clip / (norms + 1e-6)).clamp(max=1.0)[:, None])
        self.optimizer.step()
        if self.average is not None:
            self.average.lerp_(value.detach(), 1 - self.plan.ema)
        return torch.cat(found, dim=1), norms

    def _captured(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """`update` as one CUDA graph: thousands of small kernels start as one launch (static shapes)."""
        if self._replay is None:
            self._start_optimizer()
            static = {name: value.clone() for name, value in batch.items()}
            self._replay = self.update  # what is left if there is no graph
            kept = {name: value.clone() for name, value in self._tensors().items()}
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(2):
                    expected = self.update(static)
                    self._restore(kept)
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph):
                    each, norms = self.update(static)
            except (
                RuntimeError
            ) as error:  # a model that waits for the device inside its forward pass cannot be captured
                print(
                    f"{self.label}: no CUDA graph ({str(error).splitlines()[0]}); going on step by step",
                    file=sys.stderr,
                )
                self._restore(kept)
                return self.update(batch)
            self._restore(kept)
            graph.replay()
            same = all(torch.allclose(a, b, rtol=0.02, atol=1e-5) for a, b in zip((each, norms), expected, strict=True))
            self._restore(kept)
            if not same:
                print(
                    f"{self.label}: the CUDA graph disagrees with the plain step; going on step by step",
                    file=sys.stderr,
                )
                return self.update(batch)

            def replay(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
                for name, value in batch.items():
                    static[name].copy_(value)
                graph.replay()
                return each.clone(), norms.clone()

            self._replay = replay
        return self._replay(batch)

    def _start_optimizer(self) -> None:
        """Give the optimizer its state before capture, so that warm-up and capture can be undone."""
        self._restore(self._tensors())

    # -- state ----------------------------------------------------------------------------------------------------------------
    def _tensors(self) -> dict[str, torch.Tensor]:
        value = self.flat.value
        state = self.optimizer.state[value]
        zero = torch.zeros_like(value)
        tensors = {
            "value": value.data,
            "exp_avg": state.get("exp_avg", zero),
            "exp_avg_sq": state.get("exp_avg_sq", zero),
            "step": state.get("step", torch.zeros((), device=value.device)),
        }
        return tensors if self.average is None else {**tensors, "average": self.average}

    def _restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        value = self.flat.value
        state = self.optimizer.state[value]
        with torch.no_grad():
            value.copy_(tensors["value"])
            for name in ("exp_avg", "exp_avg_sq", "step"):
                if name in state:
                    state[name].copy_(tensors[name])
                else:
                    place = value.device if name != "step" or self.cuda else "cpu"
                    state[name] = tensors[name].detach().to(place).float().clone()
            if self.average is not None:
                self.average.copy_(tensors["average"])

    def _set_rate(self, rate: float) -> None:
        group = self.optimizer.param_groups[0]
        if torch.is_tensor(group["lr"]):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate

    # -- the run --------------------------------------------------------------------------------------------------------------
    def run(self) -> Outcome:
        """Train to the end, from the last checkpoint if there is one; afterwards the parameters hold the result.

        Raises:
            UserError: a loss or gradient is not a number; names the step, the images and the last good checkpoint.
            Terminated: SIGTERM came; the state is saved.
        """
        plan, start = self.plan, 0
        saved = self.checkpoint.load()
        if saved:
            self._restore(saved[0])
            start, self.outcome.history = int(saved[1]["step"]), list(saved[1]["history"])
            self._window, self._saved_at = list(saved[1]["window"]), start
        self.outcome.resumed_at = start
        for line in self.outcome.history:
            self._tell(line)
        pending: list[tuple[int, torch.Tensor, torch.Tensor]] = []
        with (
            Termination() as termination,
            tqdm(total=plan.steps, initial=start, desc=self.label, unit="step", mininterval=2) as bar,
        ):
            for step in range(start, plan.steps):
                self._set_rate(plan.rate(step))
                batch = self.batches.at(step)
                each, norms = self._captured(batch) if self.cuda else self.update(batch)
                pending.append((step, each, norms))
                done = step + 1
                bar.update()
                leave = termination.asked
                if done % plan.log_every == 0 or done == plan.steps or leave or done % plan.checkpoint_every == 0:
                    self._check(pending, bar, log=done % plan.log_every == 0 or done == plan.steps)
                if plan.validate_every and self.validate and (done % plan.validate_every == 0 or done == plan.steps):
                    self._log({"step": done, **self.validate()})
                if self.preview and plan.preview_every and done % plan.preview_every == 0:
                    self.preview(done)
                if leave or done % plan.checkpoint_every == 0 and done < plan.steps:
                    self._save(done)
                if leave:
                    raise Terminated
        if self.average is not None:
            with torch.no_grad():
                self.flat.value.copy_(self.average)
        return self.outcome

    def _save(self, step: int) -> None:
        self.checkpoint.save(self._tensors(), {"step": step, "history": self.outcome.history, "window": self._window})
        self._saved_at = step

    def _check(self, pending: list[tuple[int, torch.Tensor, torch.Tensor]], bar: tqdm, log: bool) -> None:
        """Look at the losses since the last look (one wait for the device, not one per step)."""
        if pending:
            losses = torch.stack([each for _, each, _ in pending]).float().cpu()
            norms = torch.stack([norm for _, _, norm in pending]).float().cpu()
            bad = ~(torch.isfinite(losses).all(dim=(1, 2)) & torch.isfinite(norms).all(dim=1))
            if bad.any():
                self._stop(pending[int(bad.nonzero()[0])][0], losses[int(bad.nonzero()[0])])
            self._window += [
                [float(a), float(b)] for a, b in zip(losses.mean(dim=(1, 2)), norms.mean(dim=1), strict=True)
            ]
            self._last = pending[-1][0]
            pending.clear()
        if log and self._window:
            loss, norm = (sum(column) / len(self._window) for column in zip(*self._window, strict=True))
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._log({"step": self._last + 1, "loss": loss, "grad_norm": norm, "lr": self.plan.rate(self._last)})
            self._window = []

    def _stop(self, step: int, losses: torch.Tensor) -> None:
        names = self.batches.images_of(step)
        wrong = (~torch.isfinite(losses.flatten())).nonzero().flatten().tolist()
        images = sorted({names[i] for i in wrong} or set(names))
        raise UserError(
            f"{self.label}: the loss or its gradient is not a finite number at step {step + 1} of {self.plan.steps}; images: "
            f"{', '.join(images)}. Last good checkpoint: step {self._saved_at} ({self.checkpoint.path}). Look at these images, "
            "or lower the learning rate or use precision fp32, and run again."
        )

    def _log(self, line: dict[str, Any]) -> None:
        self.outcome.history.append(line)
        self._tell(line)

    def _tell(self, line: dict[str, Any]) -> None:
        if self.observe:
            self.observe(line)
