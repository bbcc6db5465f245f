"""What comes back of keys and values that were kept in eight bits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sfpp_core.rollout.kv_quantization import CACHE_FORMS, FP8, CacheForm, Quantizer, codecs

SHAPE = (2, 3, 16, 4, 32)
EIGHT_BITS = CACHE_FORMS[1:]
MOST_ERROR = {"fp8": 2**-4, "int8": 0.5 / 127}
"""Of a number, for fp8 of itself, for int8 of the largest that shares its scale."""


def normal(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(dtype)


def kept(codec: Quantizer, x: Tensor) -> Tensor:
    return codec.decode(codec.encode(x), torch.empty_like(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", CACHE_FORMS)
def test_parts_have_the_announced_shapes_and_types(form: CacheForm, dtype: torch.dtype) -> None:
    for codec in codecs(form):
        parts = codec.encode(normal(dtype))
        assert [(tuple(part.shape), part.dtype) for part in parts] == [
            (part.shape, part.dtype) for part in codec.parts(SHAPE, dtype)
        ]
        assert sum(part.nbytes for part in codec.parts(SHAPE, dtype)) == sum(part.nbytes for part in parts)


def test_as_computed_keeps_every_bit() -> None:
    for codec in codecs("computed"):
        assert codec.exact and torch.equal(kept(codec, normal()), normal())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_errs_by_half_a_step_of_its_scale(dtype: torch.dtype) -> None:
    """Keys have a scale for a channel of a frame, values one for a token; bfloat16 adds its own rounding."""
    x = normal(dtype)
    rounding = 2 * torch.finfo(dtype).eps
    for codec, axis in zip(codecs("int8"), (2, 4), strict=True):
        largest = x.float().abs().amax(dim=axis, keepdim=True)
        error = (kept(codec, x).float() - x.float()).abs()
        assert (error <= (MOST_ERROR["int8"] + rounding) * largest).all()
        assert 0.2 * MOST_ERROR["int8"] < (error / largest).mean(), "it would be no eight bits"


def test_fp8_errs_by_a_sixteenth() -> None:
    x = normal()
    for codec in codecs("fp8"):
        error = (kept(codec, x) - x).abs()
        assert (error <= MOST_ERROR["fp8"] * x.abs() + torch.finfo(FP8).smallest_normal).all()


def test_a_large_channel_of_the_keys_leaves_the_others_alone() -> None:
    x = normal()
    x[..., 5] *= 100
    keys, values = (kept(codec, x) - x for codec in codecs("int8"))
    others = [channel for channel in range(SHAPE[-1]) if channel != 5]
    assert keys[..., others].abs().max() < 0.02
    assert values[..., others].abs().max() > 0.2


@pytest.mark.parametrize("form", EIGHT_BITS)
def test_a_frame_is_kept_the_same_whatever_lies_beside_it(form: CacheForm) -> None:
    x = normal()
    beside = x.clone()
    beside[:, 1:] *= 1000
    for codec in codecs(form):
        assert torch.equal(kept(codec, x)[:, :1], kept(codec, beside)[:, :1])
        assert torch.equal(kept(codec, x)[:, 1:2], kept(codec, x[:, 1:2]))


@pytest.mark.parametrize("form", EIGHT_BITS)
def test_nothing_that_is_finite_becomes_nan_and_nan_is_not_hidden(form: CacheForm) -> None:
    """Zeros, numbers too large and too small for the form; a network that has gone wrong must show."""
    for codec in codecs(form):
        for scale in (0.0, 1e-30, 1e30):
            assert torch.isfinite(kept(codec, normal() * scale)).all()
        assert torch.equal(kept(codec, torch.zeros(SHAPE)), torch.zeros(SHAPE))
        broken = normal()
        broken[0, 0, 0, 0, 0] = torch.nan
        assert kept(codec, broken)[0, 0, 0, 0, 0].isnan()
        assert torch.isfinite(kept(codec, broken)[1]).all()


def test_an_unknown_form_is_refused_with_a_list() -> None:
    with pytest.raises(ValueError, match="form is 'int4'; it is one of computed, fp8, int8"):
        codecs("int4")
