"""Weights in blocks of a few bits that layers of their own make numbers of at every call, as ComfyUI-GGUF's do.

Two forms of blocks of 32 values with one scale in half precision: q8 with a byte a value, q4 with half a byte. As in
that pack: a tensor says another shape than its bytes have, a layer shows no weights to who asks for its state, LoRAs
hang on the weights themselves, and the type in which numbers are made is an attribute of the layers' class.
"""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.utils
import folder_paths
import torch
from torch import Tensor, nn

BLOCK = 32
MOST = {"q8": 127, "q4": 7}
DEQUANT_DTYPES = {"default": None, "float16": torch.float16, "float32": torch.float32}
Backup = namedtuple("Backup", ["weight", "inplace_update"])


class BlockTensor(torch.Tensor):
    """Bytes that stand for a tensor of `tensor_shape`; `form` None: plain numbers."""

    def __new__(cls, data: Tensor, **_: Any) -> BlockTensor:
        return data.as_subclass(cls)

    def __init__(self, data: Tensor, *, form: str | None, tensor_shape: torch.Size, patches: Any = ()) -> None:
        super().__init__()
        self.form, self.tensor_shape, self.patches = form, tensor_shape, list(patches)

    def to(self, *args: Any, **kwargs: Any) -> BlockTensor:
        moved = super().to(*args, **kwargs)
        moved.form = getattr(self, "form", None)
        moved.tensor_shape = getattr(self, "tensor_shape", moved.data.size())
        moved.patches = list(getattr(self, "patches", ()))
        return moved

    def clone(self, *args: Any, **kwargs: Any) -> BlockTensor:
        return self

    def detach(self, *args: Any, **kwargs: Any) -> BlockTensor:
        return self

    def new_empty(self, size: Any, *args: Any, **kwargs: Any) -> BlockTensor:
        empty = super().new_empty(size, *args, **kwargs)
        return BlockTensor(empty, form=getattr(self, "form", None), tensor_shape=size, patches=self.patches)

    @property
    def shape(self) -> torch.Size:
        if not hasattr(self, "tensor_shape"):
            self.tensor_shape = self.size()
        return self.tensor_shape


def is_quantised(tensor: Tensor | None) -> bool:
    return getattr(tensor, "form", None) is not None


def quantised(weight: Tensor, form: str) -> BlockTensor:
    """Values [rows, columns] in blocks: bytes [rows, columns / 32 * bytes of a block], the scale first."""
    blocks = weight.float().unflatten(-1, (-1, BLOCK))
    scale = (blocks.abs().amax(-1, keepdim=True) / MOST[form]).to(torch.float16)
    numbers = torch.where(scale > 0, blocks / scale.float(), 0.0).round().clamp(-MOST[form], MOST[form])
    if form == "q8":
        packed = numbers.to(torch.int8).view(torch.uint8)
    else:
        halves = (numbers + 8).to(torch.uint8)
        packed = halves[..., : BLOCK // 2] | halves[..., BLOCK // 2 :] << 4
    data = torch.cat([scale.contiguous().view(torch.uint8), packed], dim=-1).flatten(-2)
    return BlockTensor(data, form=form, tensor_shape=weight.shape)


def dequantised(tensor: Tensor, dtype: torch.dtype | None, dequant_dtype: torch.dtype | None) -> Tensor:
    """The numbers in `dtype`, made in `dequant_dtype`."""
    if not is_quantised(tensor):
        return tensor.to(dtype)
    size = 2 + (BLOCK if tensor.form == "q8" else BLOCK // 2)
    blocks = tensor.data.as_subclass(Tensor).reshape(-1, size)
    scale = blocks[:, :2].contiguous().view(torch.float16).to(dequant_dtype)
    packed = blocks[:, 2:].contiguous()
    if tensor.form == "q8":
        numbers = packed.view(torch.int8)
    else:
        numbers = torch.cat([packed & 15, packed >> 4], dim=-1).to(torch.int8) - 8
    return (scale * numbers).reshape(tensor.tensor_shape).to(dtype)


class BlockLayer(nn.Module):
    """A layer that makes numbers of its weight at every call."""

    comfy_cast_weights = True
    dequant_dtype: torch.dtype | None = None
    patch_dtype: torch.dtype | None = None

    def is_quantised(self) -> bool:
        return is_quantised(self.weight) or is_quantised(self.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any, **kwargs: Any) -> None:
        for name in ("weight", "bias"):
            value = state_dict.get(f"{prefix}{name}")
            if value is not None:
                setattr(self, name, nn.Parameter(value, requires_grad=False))

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        if not self.is_quantised():
            super()._save_to_state_dict(destination, prefix, keep_vars)
            return
        # For who counts memory; nobody gets numbers here.
        destination[f"{prefix}weight"] = torch.zeros_like(self.weight, device=torch.device("meta"))
        if self.bias is not None:
            destination[f"{prefix}bias"] = torch.zeros_like(self.bias, device=torch.device("meta"))

    def get_weight(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        weight = dequantised(tensor, dtype, self.dequant_dtype)
        if isinstance(weight, BlockTensor):
            weight = weight.data.as_subclass(Tensor)
        for patches, key in getattr(tensor, "patches", ()):
            weight = comfy.lora.calculate_weight(patches, weight, key)
        return weight

    def cast_bias_weight(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        weight = self.get_weight(self.weight.to(x.device), x.dtype)
        bias = None if self.bias is None else self.get_weight(self.bias.to(x.device), x.dtype)
        return weight, bias

    def forward_comfy_cast_weights(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.is_quantised():
            out = nn.functional.linear(x, *self.cast_bias_weight(x))
        else:
            out = super().forward_comfy_cast_weights(x, *args, **kwargs)
        return out.as_subclass(Tensor) if isinstance(out, BlockTensor) else out


class BlockOps(comfy.ops.manual_cast):
    class Linear(BlockLayer, comfy.ops.manual_cast.Linear):
        def __init__(
            self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
        ) -> None:
            nn.Module.__init__(self)
            self.in_features, self.out_features = in_features, out_features
            self.weight = self.bias = None


class BlockModelPatcher(comfy.model_patcher.ModelPatcher):
    """Hangs LoRAs on quantised weights instead of adding them."""

    def patch_weight_to_device(self, key: str, device_to: Any = None, inplace_update: bool = False) -> None:
        if key not in self.patches:
            return
        weight = comfy.utils.get_attr(self.model, key)
        if is_quantised(weight):
            out = weight.to(device_to)
            out.patches = [(self.patches[key], key)]
        else:
            inplace_update = self.weight_inplace_update or inplace_update
            if key not in self.backup:
                kept = weight.to(device=self.offload_device, copy=inplace_update)
                self.backup[key] = Backup(kept, inplace_update)
            numbers = comfy.model_management.cast_to_device(weight, device_to, torch.float32, copy=True)
            out = comfy.lora.calculate_weight(self.patches[key], numbers, key).to(weight.dtype)
        comfy.utils.set_attr_param(self.model, key, out)

    def unpatch_model(self, device_to: Any = None, unpatch_weights: bool = True) -> None:
        if unpatch_weights:
            for parameter in self.model.parameters():
                if is_quantised(parameter):
                    parameter.patches = []
        super().unpatch_model(device_to=device_to, unpatch_weights=unpatch_weights)

    def load(self, *args: Any, force_patch_weights: bool = False, **kwargs: Any) -> Any:
        return super().load(*args, force_patch_weights=True, **kwargs)

    def clone(self, *args: Any, **kwargs: Any) -> BlockModelPatcher:
        own_class, self.__class__ = self.__class__, BlockModelPatcher
        clone = super().clone(*args, **kwargs)
        clone.__class__ = BlockModelPatcher
        self.__class__ = own_class
        if own_class is not BlockModelPatcher:
            clone.size = 0
        return clone


class BlockLoader:
    RETURN_TYPES, FUNCTION, CATEGORY = ("MODEL",), "load", "wired"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model_name": (folder_paths.get_filename_list("diffusion_models"),),
                "form": (list(MOST),),
                "dequant_dtype": (list(DEQUANT_DTYPES),),
            }
        }

    def load(self, model_name: str, form: str, dequant_dtype: str) -> tuple[Any]:
        ops = BlockOps()
        # Of the class, not of this model: what another node loaded before changes with it.
        ops.Linear.dequant_dtype = DEQUANT_DTYPES[dequant_dtype]
        path = folder_paths.get_full_path_or_raise("diffusion_models", model_name)
        weights = {}
        for name, weight in comfy.utils.load_torch_file(path).items():
            if weight.ndim == 2:
                weights[name] = quantised(weight, form)
            else:
                plain = weight.float() if weight.ndim == 1 else weight
                weights[name] = BlockTensor(plain, form=None, tensor_shape=plain.shape)
        model = comfy.sd.load_diffusion_model_state_dict(weights, model_options={"custom_operations": ops})
        return (BlockModelPatcher.clone(model),)


NODE_CLASS_MAPPINGS = {"WiredBlockLoader": BlockLoader}
