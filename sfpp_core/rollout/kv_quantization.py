"""Forms of the KV cache: keys and values as they were computed, or in eight bits (int8, fp8).

Axes: B batch, F frames, T tokens of a frame, N heads, D channels a head. What is kept of a tensor are its parts, each
with the axes B and F in front, so that a ring of frames can hold them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

CacheForm = Literal["computed", "fp8", "int8"]
"""`computed`: as the network made them. `fp8`: float8 e4m3. `int8`: whole numbers times a scale."""

CACHE_FORMS: tuple[CacheForm, ...] = get_args(CacheForm)

FP8 = torch.float8_e4m3fn
INT8_MAX = 127

Parts = tuple[Tensor, ...]
Shape = tuple[int, ...]

_TOKENS, _CHANNELS = 2, 4


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Shape and type of one part."""

    shape: Shape
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return prod(self.shape) * self.dtype.itemsize


class Quantizer(Protocol):
    """A form, for the keys or for the values. What a frame becomes depends on nothing but the frame."""

    exact: bool
    """Whether decoding gives back what was encoded, bit for bit."""

    def parts(self, shape_BFTND: Shape, dtype: torch.dtype) -> tuple[TensorSpec, ...]:
        """Return what is kept of a tensor of this shape that was computed in `dtype`."""
        ...

    def encode(self, x_BFTND: Tensor) -> Parts:
        """Return what is kept of `x`."""
        ...

    def decode(self, parts: Parts, out_BFTND: Tensor | None) -> Tensor:
        """Return what `encode` was given, in `out`; an exact form gives its own part and needs no `out`."""
        ...


class _AsComputed:
    exact = True

    def parts(self, shape_BFTND: Shape, dtype: torch.dtype) -> tuple[TensorSpec, ...]:
        return (TensorSpec(shape_BFTND, dtype),)

    def encode(self, x_BFTND: Tensor) -> Parts:
        return (x_BFTND,)

    def decode(self, parts: Parts, out_BFTND: Tensor | None) -> Tensor:
        del out_BFTND
        return parts[0]


class _Float8:
    exact = False

    def parts(self, shape_BFTND: Shape, dtype: torch.dtype) -> tuple[TensorSpec, ...]:
        del dtype
        return (TensorSpec(shape_BFTND, FP8),)

    def encode(self, x_BFTND: Tensor) -> Parts:
        # The type has no infinity: what lies outside its range would become NaN.
        limit = torch.finfo(FP8).max
        return (x_BFTND.clamp(-limit, limit).to(FP8),)

    def decode(self, parts: Parts, out_BFTND: Tensor | None) -> Tensor:
        return out_BFTND.copy_(parts[0])


class _Int8:
    exact = False

    def __init__(self, shared_axis: int) -> None:
        """shared_axis: along it all numbers have one scale."""
        self._shared_axis = shared_axis

    def parts(self, shape_BFTND: Shape, dtype: torch.dtype) -> tuple[TensorSpec, ...]:
        scales = tuple(1 if axis == self._shared_axis else size for axis, size in enumerate(shape_BFTND))
        return TensorSpec(shape_BFTND, torch.int8), TensorSpec(scales, dtype)

    def encode(self, x_BFTND: Tensor) -> Parts:
        largest = x_BFTND.abs().amax(dim=self._shared_axis, keepdim=True)
        # Rounded to the type that it is kept in before it is used, so that its rounding costs nothing.
        scale = (largest / INT8_MAX).clamp_min(torch.finfo(x_BFTND.dtype).tiny)
        # In float32: bfloat16 cannot tell 100.25 from 100.5, and would round twice.
        codes = (x_BFTND.float() / scale.float()).round_().clamp_(-INT8_MAX, INT8_MAX)
        return codes.to(torch.int8), scale

    def decode(self, parts: Parts, out_BFTND: Tensor | None) -> Tensor:
        codes, scale = parts
        return torch.mul(codes, scale, out=out_BFTND)


def codecs(form: CacheForm) -> tuple[Quantizer, Quantizer]:
    """Return how keys and how values are kept. Raises ValueError for a form that there is not.

    In int8 keys have a scale a channel and values a scale a token, as in KIVI (Liu et al. 2024, arXiv 2402.02750): some
    channels of the keys are far larger than the rest. Differs from the paper: a channel's scale is of one frame, in
    each head, so that a frame can be overwritten without a look at its neighbours.
    """
    if form not in CACHE_FORMS:
        raise ValueError(f"the cache's form is {form!r}; it is one of {', '.join(CACHE_FORMS)}.")
    if form == "int8":
        return _Int8(_TOKENS), _Int8(_CHANNELS)
    return (_Float8(), _Float8()) if form == "fp8" else (_AsComputed(), _AsComputed())
