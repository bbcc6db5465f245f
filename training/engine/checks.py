"""Checks that stop a run in time: values that are not finite, gradients that explode, a full disk.

NaN or infinity is reported where it first appears: as uint8 it becomes black, and training on it raises no error.
"""

from __future__ import annotations

import errno
import math
from collections import deque
from statistics import median_low

import torch
from safetensors import SafetensorError
from torch import Tensor

from sfpp_core.sealed_file import system_error


class NonFiniteError(RuntimeError):
    """A NaN or an infinity in what was made; the message says in what, and what to do."""


def require_numbers(name: str, made: Tensor) -> None:
    """Raise NotNumbers if a tensor holds a NaN or an infinity. name: what the message begins with."""
    if not made.isfinite().all():
        raise NonFiniteError(
            f"{name} hold non-finite values (NaN). If run.compile is on, write run.compile=false, as compiled "
            "autoencoders fail on some processors; otherwise what made them overflowed, so try precision=float32."
        )


NUMBERS = (errno.ENOSPC, errno.EDQUOT)
"""The system's: no space on the device, and a quota that is used up."""


def means_full_disk(error: OSError | SafetensorError) -> bool:
    """Return whether an error says that a disk, or what of it may be used, is full."""
    return (error.errno if isinstance(error, OSError) else system_error(error)) in NUMBERS


HISTORY = 500
"""Updates that say what a gradient usually is like."""
RECENT = 20
"""Updates over which it must be out of proportion. Single wild batches are what clipping is for."""
FIRST_LOOK = 2 * RECENT
"""Updates before which nothing has exploded: the recent ones would be most of all, and usual themselves."""


class TrainingDiverged(RuntimeError):
    """A loss or a gradient is no longer a number, or has exploded; the message says what to do."""


def require_finite(name: str, value: float) -> None:
    """Raise TrainingDiverged if `value` is NaN or infinite."""
    if not math.isfinite(value):
        raise TrainingDiverged(f"{name} is {value}")


class ExplosionGuard:
    """Watches the norms of a network's gradients, before clipping, which hides an exploding loss from the weights.

    It has exploded when the median norm of the last RECENT updates is `factor` times the median of the last HISTORY.
    Medians, because a run survives single outliers; gradients, because losses of distribution matching and of policy
    gradients have no scale of their own, and may be negative.
    """

    def __init__(self, factor: float | None, *, network: str, key: str) -> None:
        """Begin with no norms.

        Args:
            factor: times the usual norm at which gradients explode; None for never.
            network: whose gradients, as messages name it.
            key: where its optimiser is configured, as messages name it.
        """
        self._factor, self._network, self._key = factor, network, key
        self._norms: deque[float] = deque(maxlen=HISTORY)

    def check(self, norm: float) -> None:
        """Take the norm of the next gradient into account.

        Raises:
            TrainingDiverged: it is NaN or infinite, or gradients have exploded.
        """
        require_finite(f"the norm of the {self._network}'s gradient", norm)
        self._norms.append(norm)
        if self._factor is None or len(self._norms) < FIRST_LOOK:
            return
        usual, recent = self._usual(), median_low(list(self._norms)[-RECENT:])
        if 0 < self._factor * usual < recent:
            raise TrainingDiverged(
                f"the norm of the {self._network}'s gradient, usually {usual:.3g}, has been about {recent:.3g} for "
                f"{RECENT} updates, more than {self._key}.explosion={self._factor:g} times as much"
            )

    @property
    def in_doubt(self) -> bool:
        """Return whether the latest norm alone is out of proportion: a wild batch, or the beginning of an explosion.

        It does not last: after so many updates that have it, gradients have exploded, or it has become usual.
        """
        return self._factor is not None and bool(self._norms) and 0 < self._factor * self._usual() < self._norms[-1]

    def state(self) -> Tensor:
        """Return what `restore` needs."""
        return torch.tensor(list(self._norms), dtype=torch.float64)

    def restore(self, norms: Tensor) -> None:
        """Go on from what `state` gave."""
        self._norms = deque(norms.tolist(), maxlen=HISTORY)

    def _usual(self) -> float:
        return median_low(self._norms)
