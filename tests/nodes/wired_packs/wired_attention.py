"""Attention of other packs: what they put in the place of ComfyUI's kernel, in every form that a callable can have.

Each multiplies the queries by `scale` and leaves the rest to a real kernel, so that it can be seen whether it acted.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comfy.ldm.modules.attention import wrap_attn
from torch import Tensor

Override = Callable[..., Tensor]
"""(kernel, q, k, v, heads, ...) -> the attended values."""


def sage_kernel(scale: float) -> Override:
    """As KJNodes makes SageAttention's: a function for the library, kept from torch.compile, in a kernel of the host's
    form. Half precision, because the library knows no other.
    """

    def library_attention(
        q: Tensor, k: Tensor, v: Tensor, is_causal: bool = False, attn_mask: Any = None, tensor_layout: str = "NHD"
    ) -> Tensor:
        q, k, v = (x.transpose(1, 2) if tensor_layout == "NHD" else x for x in (q * scale, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal)
        return out.transpose(1, 2) if tensor_layout == "NHD" else out

    library_attention = torch.compiler.disable()(library_attention)

    @wrap_attn
    def attention_sage(
        q: Tensor, k: Tensor, v: Tensor, heads: int, mask: Any = None, skip_reshape: bool = False, **options: Any
    ) -> Tensor:
        made_for = v.dtype
        if made_for == torch.float32:
            q, k, v = (x.to(torch.float16) for x in (q, k, v))
        if not skip_reshape:
            q, k, v = (x.unflatten(-1, (heads, -1)) for x in (q, k, v))
        layout = "HND" if skip_reshape else "NHD"
        out = library_attention(q, k, v, attn_mask=mask, tensor_layout=layout).to(made_for)
        return (out.transpose(1, 2) if skip_reshape else out).flatten(2)

    return attention_sage


def scaled(scale: float) -> Override:
    """A closure."""

    def attention(func: Override, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return func(q * scale, *args, **kwargs)

    return attention


def scaled_attention(scale: float, func: Override, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """For functools.partial."""
    return func(q * scale, *args, **kwargs)


def referring_to_itself(scale: float) -> Override:
    """A wrapper that looks at its own attribute, and so closes over itself, as ComfyUI's kernels do from 0.32 on."""

    def wrap(func: Override) -> Override:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Tensor:
            if wrapper.container_function is not None:
                return wrapper.container_function(*args, **kwargs)
            return func(*args, **kwargs)

        wrapper.container_function = None
        return wrapper

    return wrap(scaled(scale))


class Scaled:
    """An object with a setting."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, func: Override, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return func(q * self.scale, *args, **kwargs)

    def attend(self, func: Override, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """For a bound method."""
        return self(func, q, *args, **kwargs)


class Counting(Scaled):
    """One that is not what it was once it was used."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.calls = 0

    def __call__(self, func: Override, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self.calls += 1
        return super().__call__(func, q, *args, **kwargs)


class Locked(Scaled):
    """One that holds what nothing can be told of."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.lock = threading.Lock()

    def __call__(self, func: Override, q: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with self.lock:
            return super().__call__(func, q, *args, **kwargs)


class WithOpenFile(Scaled):
    """The same with a file."""

    def __init__(self, scale: float) -> None:
        super().__init__(scale)
        self.file = Path(__file__).open("rb")


class _AttentionNode:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "patch", "wired"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        scale = ("FLOAT", {"default": 0.5, "min": 0.0, "max": 10.0, "step": 0.01})
        return {"required": {"model": ("MODEL",), "scale": scale}}

    def patch(self, model: Any, scale: float) -> tuple[Any]:
        model = model.clone()
        model.model_options["transformer_options"]["optimized_attention_override"] = self.override(scale)
        return (model,)

    def override(self, scale: float) -> Override:
        raise NotImplementedError


class SageAttention(_AttentionNode):
    def override(self, scale: float) -> Override:
        new_attention = sage_kernel(scale)

        def attention_override_sage(func: Override, *args: Any, **kwargs: Any) -> Tensor:
            return new_attention.__wrapped__(*args, **kwargs)

        return attention_override_sage


class Closure(_AttentionNode):
    def override(self, scale: float) -> Override:
        return scaled(scale)


class SelfReferring(_AttentionNode):
    def override(self, scale: float) -> Override:
        return referring_to_itself(scale)


class Partial(_AttentionNode):
    def override(self, scale: float) -> Override:
        return functools.partial(scaled_attention, scale)


class CallableObject(_AttentionNode):
    def override(self, scale: float) -> Override:
        return Scaled(scale)


class BoundMethod(_AttentionNode):
    def override(self, scale: float) -> Override:
        return Scaled(scale).attend


class CountingObject(_AttentionNode):
    def override(self, scale: float) -> Override:
        return Counting(scale)


class LockedObject(_AttentionNode):
    def override(self, scale: float) -> Override:
        return Locked(scale)


class ObjectWithFile(_AttentionNode):
    def override(self, scale: float) -> Override:
        return WithOpenFile(scale)


class NeverTheSame(LockedObject):
    """One whose node tells ComfyUI to run it again each time, too."""

    @classmethod
    def IS_CHANGED(cls, **inputs: Any) -> float:
        return float("nan")


NODE_CLASS_MAPPINGS = {
    "WiredSageAttention": SageAttention,
    "WiredClosure": Closure,
    "WiredSelfReferring": SelfReferring,
    "WiredPartial": Partial,
    "WiredCallableObject": CallableObject,
    "WiredBoundMethod": BoundMethod,
    "WiredCountingObject": CountingObject,
    "WiredLockedObject": LockedObject,
    "WiredObjectWithFile": ObjectWithFile,
    "WiredNeverTheSame": NeverTheSame,
}
