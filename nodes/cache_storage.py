"""The widget that says how the model's memory of the film is kept."""

from __future__ import annotations

from comfy_api.latest import io

from ..sfpp_core.rollout.memory import CacheStorage

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
"""The form in which the film's past has been kept so far, on the card."""

_EFFECTS = (
    "CPU memory: the same film with hardly any of the card's memory, but slower. int8: half the memory, and a film "
    "that differs a little. fp8: as much memory as int8, and further from the film as computed."
)


def cache_storage_input() -> io.Input:
    """For a node that begins a film."""
    return io.Combo.Input(
        "cache_storage",
        options=list(CACHE_STORAGES),
        default=AS_COMPUTED,
        optional=True,
        tooltip=f"How the model's memory of the film is kept, for cards that it does not fit on. {_EFFECTS}",
    )


def continued_cache_storage_input() -> io.Input:
    """For a node that continues a film."""
    return io.Combo.Input(
        "cache_storage",
        options=[AS_BEFORE, *CACHE_STORAGES],
        default=AS_BEFORE,
        optional=True,
        tooltip="How the model's memory of the film is kept from here on. As before: in the form that the film was "
        f"made with so far, on the card. {_EFFECTS}",
    )
