"""CUDA graphs: a training step's kernels recorded once and launched together.

A LoRA step of Stable Diffusion 2.1 at 256 px is some 6,000 kernels, which an H100 computes faster than one CPU
thread can name them.
A replay launches the same kernels on the same addresses, so it changes no number.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from cgddi.core.errors import UserError

WARM = 3
"""Rounds before recording, in which libraries choose their kernels and reserve what they need."""


class GraphedStep:
    """Forward and backward of a batch, recorded at the first call.

    Args:
        work: batch -> losses (n,), detached; adds to the gradients of `parameters`, reads nothing of the device.
        parameters: what gets gradients; their `.grad` stay where they are from now on (zero them in place).
        batch: the first batch; later ones have its shapes.
    """

    def __init__(
        self,
        work: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
        parameters: list[torch.nn.Parameter],
        batch: Mapping[str, torch.Tensor],
    ):
        self.inputs = {name: value.clone() for name, value in batch.items()}
        before = [None if p.grad is None else p.grad.clone() for p in parameters]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM):
                work(self.inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(self.graph):
                self.losses = work(self.inputs)
        except RuntimeError as error:
            raise UserError(
                f"a training step could not be recorded as a CUDA graph ({str(error).splitlines()[0][:200]}). "
                "Set `cuda_graphs: false` in this stage's section and run again: what is finished stays."
            ) from error
        for parameter, old in zip(parameters, before, strict=True):
            parameter.grad.zero_() if old is None else parameter.grad.copy_(old)

    def __call__(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Losses (n,) of a batch; gradients are added."""
        for name, value in batch.items():
            self.inputs[name].copy_(value, non_blocking=True)
        self.graph.replay()
        return self.losses.clone()
