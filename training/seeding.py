"""Randomness as a pure function of names: a resumed run, a worker process and a test draw the same numbers."""

from __future__ import annotations

import hashlib

import torch

MAX_SEED = 2**63 - 1


def generator_for(seed: int, *names: str | int) -> torch.Generator:
    """A CPU generator of its own for (seed, names), e.g. `generator_for(seed, "noise", step)`."""
    words = "/".join(str(word) for word in (seed, *names))
    digest = hashlib.blake2b(words.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))
