"""The training loop of tokens and adapters: AdamW, counters for randomness, checkpoints, checks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from cgddi.core.errors import UserError
from cgddi.diffusion import graphs
from cgddi.diffusion.batches import Batches, columns_of, split_batch
from cgddi.diffusion.checkpoint import Checkpoint, Terminated, Termination
from cgddi.diffusion.optimise import Flat, Plan


@dataclass
class Outcome:
    """What a run gave besides its parameters: one line of metrics per logging step, and the step it went on from."""

    history: list[dict[str, Any]] = field(default_factory=list)
    resumed_at: int = 0

    def of(self, adapter: int) -> list[dict[str, Any]]:
        """The lines of one adapter."""
        plain = [{name: value for name, value in line.items() if name != "each"} for line in self.history]
        if not any("each" in line for line in self.history):
            return plain
        return [
            {"step": line["step"]} | ({"lr": line["lr"]} if "lr" in line else {}) | line["each"][adapter]
            for line in self.history
        ]


class Fit:
    """One training run.

    Args:
        parameters: what is trained (see `Flat`).
        adapters: K.
        losses: a batch (see `Batches.at`) -> (K, n) loss of every sample, and the scalar to minimise.
        batches: the data.
        plan: how to optimise.
        checkpoint: where the state is kept.
        validate: gives each adapter's numbers to log, called every `validate_every` steps and at the end.
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
        validate: Callable[[], list[dict[str, float]]] | None = None,
        observe: Callable[[dict[str, Any]], None] | None = None,
        label: str = "train",
    ):
        self.flat = Flat(parameters, adapters)
        self.adapters, self.losses, self.batches, self.plan = adapters, losses, batches, plan
        self.checkpoint, self.validate, self.observe, self.label = checkpoint, validate, observe, label
        value = self.flat.value
        self.graphs = graphs.wanted(value.device)
        lr = torch.tensor(plan.lr, device=value.device) if self.graphs else plan.lr
        self.optimizer = torch.optim.AdamW(
            [value],
            lr=lr,
            betas=plan.betas,
            eps=plan.eps,
            weight_decay=plan.weight_decay,
            fused=True,
            capturable=self.graphs,
        )
        self.average = value.detach().clone() if plan.ema else None
        parts = plan.accumulation
        self.columns = columns_of(batches.counts, parts).to(value.device) if parts > 1 else None
        # Where the samples of joined parts stand in the batch.
        self.places = None if self.columns is None else self.columns.flatten().argsort()
        self.outcome = Outcome()
        self.preview: Callable[[int], None] | None = None
        self._window: list[list[list[float]]] = []  # per step: losses and gradient norms of the adapters
        self._last = self._saved_at = 0
        self._graph: Callable[[Mapping[str, torch.Tensor]], tuple[torch.Tensor, ...]] | None = None

    # -- one step -------------------------------------------------------------------------------------------------------------
    def update(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient, clipping and optimizer step on one batch.

        Returns:
            Losses per sample (K, n) and gradient norms (K,), on the device, detached.
        """
        value = self.flat.value
        value.grad.zero_()
        parts = split_batch(batch, self.adapters, self.columns)
        found = []
        for part in parts:
            each, loss = self.losses(part)
            (loss * (self.plan.loss_scale / len(parts))).backward()
            found.append(each.detach())
        if self.plan.loss_scale != 1:
            value.grad.div_(self.plan.loss_scale)
        norms = torch.linalg.vector_norm(value.grad, dim=1)
        if self.plan.clip:
            value.grad.mul_((self.plan.clip / (norms + 1e-6)).clamp(max=1.0)[:, None])
        self.optimizer.step()
        if self.average is not None:
            self.average.lerp_(value.detach(), 1 - self.plan.ema)
        each = found[0] if self.places is None else torch.cat(found, dim=1)[:, self.places]
        return each, norms

    def step(self, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """`update`, as a CUDA graph where those are asked for."""
        if not self.graphs:
            return self.update(batch)
        if self._graph is None:
            self._restore(self._tensors())  # gives the optimizer its state, so that the trial steps can be undone
            kept = {name: value.clone() for name, value in self._tensors().items()}
            self._graph = graphs.captured(self.update, batch)
            self._restore(kept)
        return self._graph(batch)

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
                    state[name] = tensors[name].detach().to(value.device).float().clone()
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
        saved = self.checkpoint.load(needed=("step", "history", "window"))
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
                each, norms = self.step(batch)
                pending.append((step, each, norms))
                done = step + 1
                bar.update()
                log, keep = (
                    done % every == 0 or done == plan.steps for every in (plan.log_every, plan.checkpoint_every)
                )
                if log or keep:
                    self._check(pending, bar, log)
                self._show(done)
                leave = termination.asked  # asked last: a signal during a preview counts too
                if leave or keep:
                    self._check(pending, bar, log=False)
                    self._save(done)
                if leave:
                    raise Terminated
        if self.average is not None:
            with torch.no_grad():
                self.flat.value.copy_(self.average)
        return self.outcome

    def _show(self, done: int) -> None:
        """Validate and draw where it is time, with what would be the result now: the average, where one is kept."""
        plan, value = self.plan, self.flat.value.data
        validate, preview = (
            every > 0 and (done % every == 0 or done == plan.steps)
            for every in (plan.validate_every, plan.preview_every)
        )
        validate, preview = validate and self.validate is not None, preview and self.preview is not None
        if not (validate or preview):
            return
        kept = value.clone()
        if self.average is not None:
            value.copy_(self.average)
        try:
            if validate:
                self._log({"step": done}, self.validate())
            if preview:
                self.preview(done)
        finally:
            value.copy_(kept)

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
            self._window += torch.stack([losses.mean(dim=2), norms], dim=1).tolist()
            self._last = pending[-1][0]
            pending.clear()
        if log and self._window:
            losses, norms = torch.tensor(self._window, dtype=torch.float64).mean(dim=0).tolist()
            each = [{"loss": loss, "grad_norm": norm} for loss, norm in zip(losses, norms, strict=True)]
            bar.set_postfix(loss=f"{sum(losses) / len(losses):.4f}", refresh=False)
            self._log({"step": self._last + 1, "lr": self.plan.rate(self._last)}, each)
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

    def _log(self, line: dict[str, Any], each: Sequence[Mapping[str, float]]) -> None:
        """Note numbers of every adapter; with several, their means stand first and their own under "each"."""
        names = list(dict.fromkeys(name for one in each for name in one))
        values = {name: [one[name] for one in each if name in one] for name in names}
        line |= {name: sum(found) / len(found) for name, found in values.items()}
        if len(each) > 1:
            line["each"] = [dict(one) for one in each]
        self.outcome.history.append(line)
        self._tell(line)

    def _tell(self, line: dict[str, Any]) -> None:
        if self.observe:
            self.observe(line)
