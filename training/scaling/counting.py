"""Counting what a computation costs without carrying it out: on the meta device tensors have shapes but no storage.

FLOPs are PyTorch's own count (torch.utils.flop_counter): multiplications and additions of matrix products,
convolutions and attention, 2 m n k for a product; element-wise work is not counted. Bytes are those of storages alive
at a time, each counted once however many tensors share it: what an allocator without overhead would hand out.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, slots=True)
class Pass:
    """A call of a network that can be counted and can as well be made: what is counted is what would run."""

    forward: Callable[[], Tensor]
    backward: bool = False
    """Whether a gradient then flows back from the output. Gradients of weights are left to hooks on the weights."""
    context: Callable[[], AbstractContextManager[object]] = nullcontext
    """Makes what forward runs in."""

    def run(self, between: Callable[[], None] = lambda: None) -> None:
        """Make the pass; `between` is called when forward is through."""
        with self.context(), torch.set_grad_enabled(self.backward):
            out = self.forward()
        between()
        if self.backward:
            out.backward(torch.ones_like(out))


@dataclass(frozen=True, slots=True)
class Cost:
    """What a pass takes."""

    flops: float
    kept_bytes: float
    """Alive between forward and backward, weights and inputs not counted: what the graph saved, and the output."""
    peak_bytes: float
    """Most that was alive at any time, weights and inputs not counted."""


class LiveBytes(TorchDispatchMode):
    """Follows the storages that operators inside the block make, from their making to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        """Bytes alive."""
        self.peak = 0
        """Most bytes that were alive at a time."""
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operator(*args, **(kwargs or {}))
        given = {_identity(tensor) for tensor in tree_iter((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and _identity(tensor) not in given:
                self._follow(tensor)
        return out

    def _follow(self, tensor: Tensor) -> None:
        identity, storage = _identity(tensor), tensor.untyped_storage()
        if identity in self._sizes:
            return
        self._sizes[identity] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, identity).atexit = False

    def _forget(self, identity: int) -> None:
        self.now -= self._sizes.pop(identity)


def _identity(tensor: Tensor) -> int:
    """Of the memory behind a tensor, as long as that is alive."""
    return tensor.untyped_storage()._cdata


def count(work: Pass) -> Cost:
    """Make a pass twice, on whatever device its tensors are, and say what it takes.

    Bytes are counted on their own, because the FLOP counter holds on to tensors, and second, when the tables that are
    kept from call to call are there.
    """
    kept = 0

    def after_forward() -> None:
        nonlocal kept
        kept = live.now

    with FlopCounterMode(display=False) as flops:
        work.run()
    with LiveBytes() as live:
        work.run(after_forward)
    return Cost(flops.get_total_flops(), kept, live.peak)


def count_size(make: Callable[[int], Pass], size: int) -> Cost:
    """The cost of a pass of `size` equal pieces, such as layers, from those of two and of three.

    Exact where each piece after the second costs what the third does, and most memory is in use at the same place
    however many there are.
    """
    if size < 2:
        return count(make(size))
    pairs = zip(astuple(count(make(2))), astuple(count(make(3))), strict=True)
    return Cost(*(two + (size - 2) * (three - two) for two, three in pairs))
