"""CUDA without a GPU: tensors that claim to lie on one, at true sizes and without memory, and a count of what would run there.

Inside `pretend()` a tensor on "cuda" is torch's FakeTensor: device, type and shape of every operator are checked, nothing is
computed. Tensors on the CPU are real, so that what a product's host side does (draws, timesteps, solvers) happens as ever. What the
device alone could tell is replaced: the backward pass, which torch's engine hands to a thread of the driver, is walked here node by
node; attention takes the kernel that an Ampere or newer GPU takes; half precision is believed in, also by accelerate.
"""

from __future__ import annotations

import contextlib
import functools
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

CUDA = torch.device("cuda:0")
PRODUCT = str(Path(__file__).resolve().parents[1] / "workflow")


@functools.cache
def _is_composite(func: torch._ops.OpOverload) -> bool:
    """Whether an operator is nothing but a sequence of others (the CPU's kernels tell: torch may be built without the GPU's)."""
    keys = torch._C.DispatchKey
    return func.has_kernel_for_dispatch_key(keys.CompositeImplicitAutograd) and not func.has_kernel_for_dispatch_key(
        keys.CPU
    )


NO_KERNEL = """view _unsafe_view t transpose permute expand slice select split unsqueeze squeeze detach alias split_with_sizes
as_strided unbind chunk _reshape_alias empty empty_like empty_strided lift_fresh unflatten narrow diagonal unfold new_empty lift
result_type new_empty_strided is_same_size device dtype layout resolve_conj resolve_neg view_as_real real"""
"""Operators that only describe memory anew, or reserve it."""


@dataclass
class Seen:
    """What ran on the device while it was watched.

    Args:
        operators: that start a kernel. by_op: the same by name.
        bytes: read and written by them. flop: of products and convolutions, 2 per multiplication and addition.
        to_device: bytes of each copy from the CPU, those from pinned memory apart.
        read_back: the place in the product (else in a library) of each wait for the device.
        alive, peak: bytes of the device's tensors that were made while it was watched, now and at most.
    """

    operators: int = 0
    by_op: Counter = field(default_factory=Counter)
    bytes: int = 0
    flop: int = 0
    to_device: list[int] = field(default_factory=list)
    pinned: list[int] = field(default_factory=list)
    read_back: list[str] = field(default_factory=list)
    types: Counter = field(default_factory=Counter)
    alive: int = 0
    peak: int = 0


class FakeDevice(TorchDispatchMode):
    """Runs operators of CPU tensors for real, others as FakeTensorMode does, and counts those while `seen` is there."""

    def __init__(self):
        super().__init__()
        self.seen: Seen | None = None
        self._sizes: dict[int, int] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[Seen]:
        """Count what runs in the block."""
        above = FakeDevice()
        above.seen = Seen()
        with above:
            yield above.seen

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        given = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        on_device = any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves)
        if not on_device and not any(isinstance(tensor, FakeTensor) for tensor in given):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if func.namespace == "aten" and _is_composite(func):
            with self:  # as autograd does; inference mode would not
                made = func.decompose(*args, **kwargs)
            if made is not NotImplemented:
                return made
        name = func._schema.name.partition("::")[2]
        if name in ("_local_scalar_dense", "equal"):
            self._waits(given)
            return True if name == "equal" else _some(given[0].dtype)
        made = func(*args, **kwargs)
        if self.seen is not None:
            self._count(name, given, [leaf for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)])
            if func._overloadpacket in flop_registry:
                self.seen.flop += flop_registry[func._overloadpacket](*args, **kwargs, out_val=made)
        return made

    def _waits(self, given: list[torch.Tensor]) -> None:
        if self.seen is not None and any(tensor.device.type == "cuda" for tensor in given):
            self.seen.read_back.append(_place())

    def _count(self, name: str, given: list[torch.Tensor], made: list[torch.Tensor]) -> None:
        seen, here = self.seen, [tensor for tensor in given if tensor.device.type == "cuda"]
        out = [tensor for tensor in made if tensor.device.type == "cuda"]
        if not here and not out:
            return
        for tensor in out:
            self._keep(tensor)
        if here and made and not out:
            self._waits(given)
        copies = name in ("_to_copy", "copy_")
        for tensor in given:
            if out and tensor.device.type == "cpu" and (tensor.dim() or copies):  # a number alone goes with the kernel
                size = tensor.numel() * tensor.element_size()
                (seen.pinned if hasattr(tensor, "pinned_here") else seen.to_device).append(size)
        if name in NO_KERNEL.split():
            return
        seen.operators += 1
        seen.by_op[name] += 1
        seen.bytes += sum(tensor.numel() * tensor.element_size() for tensor in [*here, *out])
        if name in ("mm", "addmm", "convolution", "bmm"):
            seen.types[str(here[-1].dtype).removeprefix("torch.")] += 1

    def _keep(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._sizes:
            return
        self._sizes[storage._cdata] = size = storage.nbytes()
        self.seen.alive += size
        self.seen.peak = max(self.seen.peak, self.seen.alive)
        weakref.finalize(storage, self._freed, self.seen, self._sizes, storage._cdata)

    @staticmethod
    def _freed(seen: Seen, sizes: dict[int, int], key: int) -> None:
        seen.alive -= sizes.pop(key, 0)


def _some(kind: torch.dtype) -> Any:
    """A number in the stead of one that was read from the device."""
    return True if kind == torch.bool else 1.0 if kind.is_floating_point else 1


def _place() -> str:
    """The innermost line of the product, and the line of a library that it called."""
    frames = [frame for frame in traceback.extract_stack()[:-3] if "/torch/" not in frame.filename]
    ours = [frame for frame in frames if frame.filename.startswith(PRODUCT)]
    lines = [f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno} {f.line}" for f in (*ours[-1:], *frames[-1:])]
    return " <- ".join(dict.fromkeys(lines))


# -- what the driver would do -------------------------------------------------------------------------------------------------
def backward(tensors: Any, grads: Any = None, *_: Any, **__: Any) -> None:
    """`torch.autograd.backward` node by node; gradients are added to `.grad` as AccumulateGrad does."""
    tensors, grads = ((value,) if isinstance(value, torch.Tensor | None) else value for value in (tensors, grads))
    buffers: dict[Any, dict[int, torch.Tensor]] = {}
    for tensor, grad in zip(tensors, grads, strict=True):
        buffers.setdefault(tensor.grad_fn, {})[tensor.output_nr] = torch.ones_like(tensor) if grad is None else grad
    degree, stack, known = Counter(), [*buffers], set(buffers)
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is not None:
                degree[following] += 1
                if following not in known:
                    known.add(following)
                    stack.append(following)
    ready = [node for node in buffers if not degree[node]]
    with torch.no_grad():
        while ready:
            node = ready.pop()
            grads = buffers.pop(node, {})
            if hasattr(node, "variable"):  # AccumulateGrad
                _accumulate(node.variable, grads.get(0))
                continue
            inputs = [grads.get(number) for number in range(len(node._input_metadata))]
            call = node.apply if hasattr(node, "apply") else node
            found = call(*inputs) if grads else (None,) * len(node.next_functions)
            found = found if isinstance(found, tuple) else (found,)
            found = found[
                len(found) - len(node.next_functions) :
            ]  # without those of leading arguments that are no tensors
            for (following, number), grad in zip(node.next_functions, found, strict=True):
                if following is None:
                    continue
                if grad is not None:
                    slot = buffers.setdefault(following, {})
                    grad = _as_wanted(grad, following._input_metadata[number])
                    slot[number] = slot[number] + grad if number in slot else grad
                degree[following] -= 1
                if not degree[following]:
                    ready.append(following)


def _accumulate(leaf: torch.Tensor, grad: torch.Tensor | None) -> None:
    if grad is not None and leaf.grad is None:
        leaf.grad = grad.detach()
    elif grad is not None:
        leaf.grad.add_(grad)


def _as_wanted(grad: torch.Tensor, wanted: Any) -> torch.Tensor:
    """As the engine: broadcast dimensions are summed, types restored."""
    if tuple(grad.shape) != tuple(wanted.shape):
        grad = grad.sum_to_size(wanted.shape)
    return grad if grad.dtype == wanted.dtype else grad.to(wanted.dtype)


_attention = nn.functional.scaled_dot_product_attention


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
    """What an Ampere or newer GPU picks: flash in half precision without a mask, else the memory-efficient kernel."""
    if not isinstance(query, FakeTensor):
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale)
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (part.to(torch.get_autocast_dtype("cuda")) for part in (query, key, value))
    aten, masked = torch.ops.aten, attn_mask is not None
    if not masked and query.dtype in (torch.float16, torch.bfloat16):
        return aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, scale=scale)[0]
    if masked:
        attn_mask = attn_mask.to(query.dtype).expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
    options = attn_mask, torch.is_grad_enabled(), dropout_p, is_causal
    return aten._scaled_dot_product_efficient_attention(query, key, value, *options, scale=scale)[0]


def _module_to(real: Callable) -> Callable:
    def to(self: nn.Module, *args: Any, **options: Any) -> nn.Module:
        if not any(isinstance(parameter, FakeTensor) for parameter in self.parameters()):
            return real(self, *args, **options)
        kinds = [value for value in (*args, *options.values()) if isinstance(value, torch.dtype)]
        form = options.get("memory_format")
        for part in self.modules():
            for name, old in [*part._parameters.items()]:
                laid = form is not None and old is not None and old.dim() == 4
                if laid or (old is not None and kinds and old.is_floating_point()):
                    new = old.data.to(*kinds, **({"memory_format": form} if laid else {}))
                    part._parameters[name] = nn.Parameter(new, requires_grad=old.requires_grad)
        return self

    return to


@contextlib.contextmanager
def pretend() -> Iterator[FakeDevice]:
    """A GPU for the length of a `with` block; gives what watches it."""
    from accelerate.state import AcceleratorState, PartialState

    device = FakeDevice()

    def pin(tensor: torch.Tensor, *_: Any) -> torch.Tensor:
        made = tensor.clone()
        made.pinned_here = True
        return made

    def reading(real: Callable) -> Callable:
        def read(tensor: torch.Tensor) -> Any:
            if not isinstance(tensor, FakeTensor):
                return real(tensor)
            for mode in _get_current_dispatch_mode_stack():
                if isinstance(mode, FakeDevice):
                    mode._waits([tensor])
            with _disable_current_modes():
                return real(torch.ones(tensor.shape, dtype=tensor.dtype))

        return read

    AcceleratorState._reset_state(True)
    PartialState(cpu=True)
    PartialState._shared_state["device"] = CUDA
    replaced = {
        "torch.nn.Module.to": _module_to(nn.Module.to),
        "torch.autograd.backward": backward,
        "torch.Tensor.pin_memory": pin,
        "torch.Tensor.tolist": reading(torch.Tensor.tolist),
        "torch._subclasses.fake_tensor.FakeTensor.tolist": reading(torch.Tensor.tolist),
        "torch.Tensor.numpy": reading(torch.Tensor.numpy),
        "torch.nn.functional.scaled_dot_product_attention": attention,
        "torch.utils._foreach_utils._foreach_supported_types": [torch.Tensor, nn.Parameter, FakeTensor],
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "accelerate.accelerator.is_bf16_available": lambda *_: True,
    }
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch(name, value))
        stack.callback(AcceleratorState._reset_state, True)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield stack.enter_context(device)


def fake_parameters(module: nn.Module, kind: torch.dtype | None = None) -> nn.Module:
    """Parameters and buffers of a module (built on the meta device or anywhere) as ones on the fake GPU, in place, frozen as they
    were.

    Args:
        kind: of floating-point ones; None keeps theirs.
    """
    for part in module.modules():
        for name, old in [*part._parameters.items()]:
            if old is not None:
                new = _fake(old, kind)
                part._parameters[name] = nn.Parameter(new, requires_grad=old.requires_grad)
        for name, old in [*part._buffers.items()]:
            if old is not None:
                part._buffers[name] = _fake(old, kind)
    return module


def _fake(old: torch.Tensor, kind: torch.dtype | None) -> torch.Tensor:
    kind = kind if kind is not None and old.is_floating_point() else old.dtype
    return torch.empty(old.shape, dtype=kind, device=CUDA)
