"""The pack's spool: where in ComfyUI's output folder it lies, and how much of it is kept."""

from __future__ import annotations

import logging
import math
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import folder_paths

from ...sfpp_core.chunk_store.eviction import clean
from ...sfpp_core.chunk_store.store import FilmSpool, Spool
from ...sfpp_core.rollout.state import RolloutState
from .circumstances import Circumstances

logger = logging.getLogger(__name__)

FOLDER = "sfpp_spool"
"""In the output folder."""
GIGABYTES_VARIABLE, DEFAULT_GIGABYTES = "SFPP_SPOOL_GB", 20.0
DAYS_VARIABLE, DEFAULT_DAYS = "SFPP_SPOOL_DAYS", 14.0
"""Environment variables: machines differ in their disks, workflows do not."""


@contextmanager
def film_spool(state: RolloutState, circumstances: Circumstances) -> Iterator[FilmSpool]:
    """The finished chunks of a film that go on from `state`; films that nobody uses make room for it.

    Where the circumstances do not tell all, none is kept or found. Raises ValueError for a limit in the environment
    that is no number.
    """
    root = Path(folder_paths.get_output_directory(), FOLDER)
    limits = _limit(GIGABYTES_VARIABLE, DEFAULT_GIGABYTES), _limit(DAYS_VARIABLE, DEFAULT_DAYS)
    parts = dict(circumstances.parts)
    if circumstances.untold:
        # A folder of its own, for what grows beside the sampler.
        parts["untold"] = secrets.token_hex(16)
    with Spool(root).film(state, parts, keeps=not circumstances.untold) as film:
        # Now that it is held: this film may be the one that was not used for longest.
        _clean(root, *limits)
        yield film


def _clean(root: Path, gigabytes: float, days: float) -> None:
    try:
        cleaned = clean(root, most_bytes=int(gigabytes * 1e9), most_seconds=days * 86400)
    except OSError as problem:
        # A folder that somebody removes by hand meanwhile, or another user's: no reason to make no film.
        logger.warning("The spool could not be cleaned: %s", problem)
        return
    if cleaned.folders:
        logger.info(
            "Removed %d films from the spool (%.2f GB); %.2f GB are left. %s and %s set its limits.",
            cleaned.folders,
            cleaned.freed / 1e9,
            cleaned.left / 1e9,
            GIGABYTES_VARIABLE,
            DAYS_VARIABLE,
        )


def _limit(variable: str, default: float) -> float:
    """A limit from the environment. Raises ValueError naming the variable if it is no number from 0 on."""
    text = os.environ.get(variable, "")
    try:
        limit = float(text) if text else default
    except ValueError:
        limit = math.nan
    if not 0 <= limit < math.inf:
        raise ValueError(f"the environment variable {variable} is {text!r}; set it to a number such as {default:g}.")
    return limit
