"""What a call of a network takes, made on PyTorch's meta device, where tensors have shapes and no storage."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import FlopCounterMode

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.kv_cache import RollingKVCache
from sfpp_core.wan.config import WAN21, WAN21_T2V_1_3B, WAN21_T2V_14B, WanConfig, WanVAEConfig
from sfpp_core.wan.transformer import WanTransformer
from sfpp_core.wan.vae import WanVAE

from ..causal_init.data import CausalPass
from ..config import require
from ..engine.distributed import recompute_blocks
from ..models.kernels import channels_last_weights
from ..models.sampling import decoded_frames
from ..self_forcing.windows import WARMUP_FRAMES, WindowConfig, begin_video

META, BF16 = torch.device("meta"), torch.bfloat16
MODELS = {"1.3B": WAN21_T2V_1_3B, "14B": WAN21_T2V_14B}
WATCHED_FRAMES = 3
"""From the second latent frame on the decoder does the same for each, so a longer video has no more alive."""
Make = Callable[[WanTransformer, bool], Callable[[], Tensor]]
"""Prepares a call of a network, which trains or does not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingConfig:
    """One training run at full size; the defaults are the paper's. Lengths are latent frames."""

    student: WanConfig = WAN21_T2V_1_3B
    """Of student and critic."""
    teachers: dict[str, WanConfig] = field(default_factory=lambda: dict(MODELS))
    """Those that are compared, by name."""
    vae: WanVAEConfig = field(default_factory=WanVAEConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    height: int = 480
    """Pixels."""
    width: int = 832
    """Pixels."""
    window: WindowConfig = field(default_factory=lambda: WindowConfig(rollout_frames=420))
    """K, what teacher and critic judge, and N, of the longest rollout."""
    critic_updates: int = 5
    """A generator update."""
    text_tokens: int = 512
    """Wan 2.1 pads every prompt to as many."""
    checkpointing: bool = True
    """Whether blocks are computed again on the way back; run.checkpoint_activations."""
    gpus: tuple[int, ...] = (1, 8, 64)

    def __post_init__(self) -> None:
        self.window.check_chunk(self.rollout.chunk)
        for name in ("critic_updates", "text_tokens"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1.")
        require(bool(self.gpus) and min(self.gpus) >= 1, f"gpus is {self.gpus}; name counts of at least 1, e.g. 1 8.")
        WAN21.latent_size(self.height, self.width)

    @property
    def most_past(self) -> int:
        """Latent frames that a chunk finds in the cache at most."""
        return self.rollout.window - self.rollout.chunk

    @property
    def cache_sizes(self) -> dict[str, Any]:
        """Sizes of the KV cache of one video."""
        tokens = WAN21.tokens_per_frame(*WAN21.latent_size(self.height, self.width))
        return {"batch": 1, "tokens_per_frame": tokens, "dtype": BF16}

    def text(self) -> Tensor:
        """Prompt embeds of one video, [1, L, text_dim], without storage."""
        return torch.empty(1, self.text_tokens, self.student.text_dim, device=META)

    def latents(self, frames: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the latents of one video, [1, C, T, H, W], without storage."""
        size = WAN21.latent_size(self.height, self.width)
        return torch.empty(1, self.student.in_channels, frames, *size, device=META, dtype=dtype)


def count_passes(config: ScalingConfig) -> dict[str, Cost]:
    """Count what each call that a step is made of takes, by name; trained calls go forward and backward."""
    return count_transformers(config) | count_causal_init(config) | count_vae(config)


def count_transformers(config: ScalingConfig) -> dict[str, Cost]:
    """Count the calls of student, critic and teachers."""
    text, frames = config.text(), config.window.frames
    sigma = torch.empty(1, frames, device=META)

    def clip(network: WanTransformer, trains: bool) -> Callable[[], Tensor]:
        return partial(network, config.latents(frames), sigma, text)

    def chunk(past: int, network: WanTransformer, trains: bool) -> Callable[[], Tensor]:
        cache = RollingKVCache(network.config, config.rollout, **config.cache_sizes, device=META)
        cache.seek(past)
        x = config.latents(config.rollout.chunk, BF16)
        with torch.no_grad():
            # A call that trains makes the text's keys and values itself.
            context = text.to(BF16) if trains else network.embed_text(text.to(BF16))
        return partial(network, x, sigma[:, : x.shape[2]], context, cache=cache)

    def texts(network: WanTransformer, trains: bool) -> Callable[[], Tensor]:
        embeds = text.to(BF16)
        return lambda: network.embed_text(embeds).keys[-1]

    teachers = {f"teacher, {name} teacher": (model, clip) for name, model in config.teachers.items()}
    makes = {"critic": clip, "chunk, no past": partial(chunk, 0), "chunk, full past": partial(chunk, config.most_past)}
    calls = teachers | {name: (config.student, make) for name, make in {**makes, "text": texts}.items()}
    costs = {name: _count_layers(model, make) for name, (model, make) in calls.items()}
    for name, make in makes.items():
        costs[f"{name}, trained"] = _count_layers(config.student, make, True, config.checkpointing)
    return costs


def count_causal_init(config: ScalingConfig) -> dict[str, Cost]:
    """Count the call of the stage before: all chunks of a window at once, each given the clean ones before it."""
    x, sigma = config.latents(config.window.frames), torch.empty(1, config.window.frames, device=META)
    causal, text = CausalPass(config.rollout, frames=config.window.frames), config.text()

    def make(network: WanTransformer, trains: bool) -> Callable[[], Tensor]:
        return partial(causal.after_clean, network, x, x, sigma, text)

    return {"causal_init, trained": _count_layers(config.student, make, True, config.checkpointing)}


def _count_layers(model: WanConfig, make: Make, trains: bool = False, checkpointing: bool = False) -> Cost:
    """Count a call through all layers. Each takes the FLOPs of the second, and the bytes of the third."""

    def call(layers: int) -> Callable[[], Tensor]:
        with META:
            network = as_on_cuda(WanTransformer(replace(model, num_layers=layers)))
        if checkpointing:
            recompute_blocks(network)
        return make(network, trains)

    one, two = (count_flops(call(layers), trains=trains) for layers in (1, 2))
    small, large = (peak_bytes(call(layers), trains=trains) for layers in (2, 3))
    more = model.num_layers - 2
    return Cost(two + more * (two - one), small + more * (large - small))


def count_vae(config: ScalingConfig) -> dict[str, Cost]:
    """Count in float32: the first frames of a window from mid-video made those of a video, and a video's frames.

    Few windows begin so early that they have less than the whole warm-up; they are counted as the others.
    """
    with META:
        vae = WanVAE(config.vae)
    channels_last_weights(vae)
    watched, head = (config.latents(frames) for frames in (WATCHED_FRAMES, config.window.masked_frames))
    calls = {
        "first frames": partial(begin_video, config.latents(WARMUP_FRAMES), head, vae),
        "watching": lambda: deque(decoded_frames(vae, watched), maxlen=1).pop(),
    }
    costs = {}
    for name, call in calls.items():
        with LiveBytes() as live:
            flops = count_flops(call)
        costs[name] = Cost(flops, live.peak)
    return costs


@dataclass(frozen=True, slots=True)
class Cost:
    """The FLOPs and bytes of a call."""

    flops: float
    """PyTorch's own count (torch.utils.flop_counter): 2 m n k a product; element-wise work is left out."""
    peak_bytes: float
    """Most that was alive at a time; weights and inputs are not counted."""


def count_flops(forward: Callable[[], Tensor], *, trains: bool = False) -> int:
    """Count the FLOPs of a call, with `trains` of its backward pass too, on whatever device its tensors are."""
    with FlopCounterMode(display=False) as flops:
        _make(forward, trains)
    return flops.get_total_flops()


def peak_bytes(forward: Callable[[], Tensor], *, trains: bool = False) -> int:
    """Count the bytes that are alive at most in the same; weights and inputs are not counted.

    Done on its own, because the FLOP counter holds on to tensors, and after it, when tables that are kept from call to
    call are there.
    """
    with LiveBytes() as live:
        _make(forward, trains)
    return live.peak


def _make(forward: Callable[[], Tensor], trains: bool) -> None:
    with torch.set_grad_enabled(trains):
        out = forward()
    if trains:
        out.backward(torch.ones_like(out))


class LiveBytes(TorchDispatchMode):
    """Follow the storages that operators inside the block make, each counted once however many tensors share it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        """Bytes alive, and most that were alive at a time."""
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = operator(*args, **(kwargs or {}))
        given = {_identity(tensor) for tensor in tree_iter((args, kwargs)) if isinstance(tensor, Tensor)}
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor) and _identity(tensor) not in given | self._sizes.keys():
                self._sizes[_identity(tensor)] = tensor.untyped_storage().nbytes()
                self.now += tensor.untyped_storage().nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor.untyped_storage(), self._forget, _identity(tensor)).atexit = False
        return out

    def _forget(self, identity: int) -> None:
        self.now -= self._sizes.pop(identity)


def _identity(tensor: Tensor) -> int:
    """Return a number for the memory behind a tensor, valid as long as that is alive."""
    return tensor.untyped_storage()._cdata


def as_on_cuda(network: WanTransformer) -> WanTransformer:
    """Have a transformer on the meta device cost what it does on CUDA under autocast to bfloat16.

    Layers and attention compute in bfloat16, LayerNorm in float32. Weights are those that FSDP2 shows to the forward
    pass; the gradient of one is dropped as soon as it is there, as a sharded network hands it on.
    """
    network.attention = flash_attention
    network.to(BF16)
    for module in network.modules():
        if isinstance(module, nn.RMSNorm):
            module.forward = partial(_fused_norm, module)
        elif isinstance(module, nn.LayerNorm):
            module.forward = partial(_computed_in, torch.float32, module.float().forward)
        elif isinstance(module, nn.Linear | nn.Conv3d):
            module.forward = partial(_computed_in, BF16, module.forward)
    for weight in network.parameters():
        weight.register_post_accumulate_grad_hook(_drop_gradient)
    return network


def flash_attention(q_BLHD: Tensor, k_BSHD: Tensor, v_BSHD: Tensor, mask_LS: Tensor | None = None) -> Tensor:
    """Flash attention by its own operator: for meta tensors PyTorch would choose one that keeps all scores.

    Its backward has five products to the forward's two, because it makes the scores again. Raises ValueError if masked.
    """
    if mask_LS is not None:
        raise ValueError("there is a mask; flash attention sees all keys, so count a pass that has none.")
    q, k, v = (tensor.transpose(1, 2).to(BF16) for tensor in (q_BLHD, k_BSHD, v_BSHD))
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0].transpose(1, 2)


def _computed_in(dtype: torch.dtype, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return forward(x.to(dtype))


def _drop_gradient(weight: Tensor) -> None:
    weight.grad = None


def _fused_norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    return _FusedNorm.apply(x, norm.weight)


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
