"""Memory for a video that is being made: page-locked CPU memory, and the answer when there is not enough of any."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import comfy.model_management as memory
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ...sfpp_core.rollout.memory import CacheStorage, MemoryAvailable, MemoryEstimate, Settings, memory_advice
from ...sfpp_core.rollout.state import RolloutState
from .wired import compute_dtype, wan_config

logger = logging.getLogger(__name__)

CACHE_STORAGES = {
    "as computed": CacheStorage(),
    "CPU memory": CacheStorage(offloaded=True),
    "int8": CacheStorage(form="int8"),
    "CPU memory, int8": CacheStorage(form="int8", offloaded=True),
    "fp8": CacheStorage(form="fp8"),
}
"""By choice, from the smallest change to the largest."""
AS_COMPUTED = "as computed"
AS_BEFORE = "as before"
"""The form in which the video's past has been kept so far, on the card."""

_EFFECTS = (
    "CPU memory: the same video with hardly any of the card's memory, but slower. int8: half the memory, and a video "
    "that differs a little. fp8: as much memory as int8, and further from the video as computed."
)


def cache_storage_input() -> io.Input:
    """Make the widget of a node that begins a video."""
    return io.Combo.Input(
        "cache_storage",
        options=list(CACHE_STORAGES),
        default=AS_COMPUTED,
        optional=True,
        tooltip=f"How the model's memory of the video is kept, for cards that it does not fit on. {_EFFECTS}",
    )


def continued_cache_storage_input() -> io.Input:
    """Make the widget of a node that continues a video."""
    return io.Combo.Input(
        "cache_storage",
        options=[AS_BEFORE, *CACHE_STORAGES],
        default=AS_BEFORE,
        optional=True,
        tooltip="How the model's memory of the video is kept from here on. As before: in the form that the video was "
        f"made with so far, on the card. {_EFFECTS}",
    )


CPU = torch.device("cpu")
TYPES = (torch.cuda.OutOfMemoryError, MemoryError)
WORDS = ("DefaultCPUAllocator", "out of memory")
"""In PyTorch's messages where it has no type for it: from the CPU, from Apple's cards, from a driver."""


class PinnedMemory:
    """Makes CPU memory for as long as a run lasts, page-locked where ComfyUI can: then copies need no waiting.

    Not PyTorch's own page-locked memory, which comes in powers of two and is kept until the program ends.
    """

    def __init__(self) -> None:
        self._pinned: list[Tensor] = []

    def __enter__(self) -> PinnedMemory:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if self._pinned:
                # Nothing may be on its way from or to it.
                torch.cuda.synchronize()
        finally:
            while self._pinned:
                memory.unpin_memory(self._pinned.pop())

    def __call__(self, shape: tuple[int, ...], /, *, dtype: torch.dtype) -> Tensor:
        tensor = torch.zeros(shape, dtype=dtype)
        if memory.pin_memory(tensor):
            self._pinned.append(tensor)
        return tensor


def memory_estimate(model: ModelPatcher, state: RolloutState, storage: CacheStorage) -> MemoryEstimate:
    """Return what the next chunks of a video need besides the MODEL's weights."""
    batch, channels, height, width = state.shape
    return MemoryEstimate(
        model=wan_config(model),
        config=state.config,
        storage=storage,
        dtype=compute_dtype(model),
        batch=batch,
        latent_size=(height, width),
        # Not the patcher's own estimate: with dynamic VRAM that is padded by a third and a gigabyte.
        step=int(model.model.memory_required([batch, channels, state.config.chunk, height, width])),
        can_resize=state.num_frames == state.num_given,
    )


def require_memory(device: torch.device, estimate: MemoryEstimate) -> None:
    """Raise ValueError, saying what to change, if the video could not fit into all the memory that there is.

    Told beforehand, because not every system refuses: some promise more than they have, and end the program later.
    """
    cache = estimate.cache(estimate.storage)
    if cache.device > memory.get_total_memory(device) or cache.cpu > memory.get_total_memory(CPU):
        raise ValueError(_advice(device, estimate))


@contextmanager
def answering_out_of_memory(device: torch.device, estimate: MemoryEstimate) -> Iterator[None]:
    """Say what to change if the body runs out of memory: the same type of error, with a text to act on.

    The body must keep what it allocates in frames of its own, so that it is gone when what is free is counted.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        logger.info("Out of memory: %s", error)
        traceback.clear_frames(error.__traceback__)
        # ComfyUI unloads its models for the type that it knows.
        kind = type(error) if isinstance(error, TYPES) else RuntimeError
        raise kind(_advice(device, estimate)) from error


def is_out_of_memory(error: Exception) -> bool:
    """Return whether a device's memory, or the CPU's, was not enough."""
    is_untyped = isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)
    return isinstance(error, TYPES) or is_untyped


def _advice(device: torch.device, estimate: MemoryEstimate) -> str:
    is_cpu = device.type == CPU.type
    available = MemoryAvailable(
        device="This computer" if is_cpu else memory.get_torch_device_name(device),
        total=int(memory.get_total_memory(device)),
        free=int(memory.get_free_memory(device)),
        cpu_free=int(memory.get_free_memory(CPU)),
    )
    choices = {name: storage for name, storage in CACHE_STORAGES.items() if not (is_cpu and storage.offloaded)}
    return memory_advice(estimate, available, choices, Settings(storage="cache_storage", beginning="in SFPP Sampler"))
