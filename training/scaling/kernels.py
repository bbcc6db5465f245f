"""A network on the meta device made to cost what it costs on a GPU, where PyTorch picks other kernels and autocasts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only


def flash_attention(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, mask_LS: Tensor | None = None) -> Tensor:
    """Flash attention by its own operator: for meta tensors PyTorch would choose the version that keeps all scores.

    Its backward counts five products of the forward's two, because it makes the scores anew. Raises ValueError under a
    mask, which that kernel does not know.
    """
    if mask_LS is not None:
        raise ValueError("there is a mask; flash attention sees all keys, so count a pass that has none.")
    q, k, v = (tensor.transpose(1, 2) for tensor in (q_BLHD, k_BSHD, v_BSHD))
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0].transpose(1, 2)


class CudaAutocast(TorchFunctionMode):
    """What `torch.autocast("cuda", dtype)` does to the transformer's operators; itself it leaves meta tensors alone.

    Layers and attention compute in `dtype`, LayerNorm in float32.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        lower = (F.linear, torch.conv3d, torch.ops.aten._scaled_dot_product_flash_attention)
        self._dtypes = {**dict.fromkeys(lower, dtype), F.layer_norm: torch.float32}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        dtype, kwargs = self._dtypes.get(function), kwargs or {}
        if dtype is None:
            return function(*args, **kwargs)
        args, kwargs = tree_map_only(Tensor, lambda tensor: tensor.to(dtype), (args, kwargs))
        return function(*args, **kwargs)


def autocast_blocks(network: nn.Module, dtype: torch.dtype) -> None:
    """Have every block of a transformer autocast on its own, so that one that is computed again is so in the same way.

    Modes that see functions of tensors are off during backward.
    """
    for block in network.blocks:
        block.forward = partial(_autocast, block.forward, dtype)


def _autocast(forward: Callable[..., Tensor], dtype: torch.dtype, *args: Any) -> Tensor:
    with CudaAutocast(dtype):
        return forward(*args)


class _FusedNorm(torch.autograd.Function):
    """Shapes and savings of the fused RMSNorm, no values: it keeps its input and one float32 number a token."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty((*x.shape[:-1], 1), dtype=torch.float32))
        return torch.empty_like(x, dtype=torch.promote_types(x.dtype, weight.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)


class FusedRMSNorm(nn.Module):
    """Stands for `nn.RMSNorm` when bytes are counted: off CUDA that is made of operators that keep float32 copies."""

    def __init__(self, norm: nn.RMSNorm) -> None:
        super().__init__()
        self.weight = norm.weight

    def forward(self, x: Tensor) -> Tensor:
        return _FusedNorm.apply(x, self.weight)


def fuse_norms(network: nn.Module) -> None:
    """Replace every RMSNorm of a network on the meta device."""
    for owner in list(network.modules()):
        for name, child in owner.named_children():
            if isinstance(child, nn.RMSNorm):
                setattr(owner, name, FusedRMSNorm(child))
