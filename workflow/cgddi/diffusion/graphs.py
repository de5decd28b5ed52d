"""CUDA graphs: the thousands of small kernels of a step as one launch. Asked for by CGDDI_CUDA_GRAPHS=1.

Not the default, since no GPU has run this code yet: the test that compares a graph with the plain step needs one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

import torch

Step = Callable[[Mapping[str, torch.Tensor]], tuple[torch.Tensor, ...]]
"""Tensors of fixed shapes, by name -> tensors on the device."""


def wanted(device: torch.device) -> bool:
    """Whether steps on this device are to become graphs."""
    return device.type == "cuda" and os.environ.get("CGDDI_CUDA_GRAPHS") == "1"


def captured(step: Step, example: Mapping[str, torch.Tensor]) -> Step:
    """The step as a graph; the step itself where it cannot be one (it waits for the device, say).

    Args:
        step: runs only kernels on the current device; called three times here, so undo what that changed.
        example: tensors of the shapes of every later call.
    """
    static = {name: value.clone() for name, value in example.items()}
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            results = step(static)
    except RuntimeError as error:
        print(f"no CUDA graph ({str(error).splitlines()[0]}): going on step by step", file=sys.stderr)
        return step

    def replay(batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        for name, value in batch.items():
            static[name].copy_(value)
        graph.replay()
        return tuple(result.clone() for result in results)

    return replay
