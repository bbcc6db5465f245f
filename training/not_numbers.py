"""What holds no numbers, told where it is made: as bytes NaN is black, and a student learns from NaN in silence."""

from __future__ import annotations

from torch import Tensor


class NotNumbers(RuntimeError):
    """A NaN or an infinity in what was made; the message says in what, and what to do."""


def require_numbers(name: str, made: Tensor) -> None:
    """Raise NotNumbers if a tensor holds a NaN or an infinity. name: what the message begins with."""
    if not made.isfinite().all():
        raise NotNumbers(
            f"{name} hold values that are no numbers (NaN). If run.compile is on, write run.compile=false, as compiled "
            "autoencoders fail on some processors; otherwise what made them overflowed, so try precision=float32."
        )
