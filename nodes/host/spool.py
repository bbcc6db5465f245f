"""The pack's spool: where in ComfyUI's output folder it lies, and how much of it is kept."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import folder_paths

from ...sfpp_core.spool.spool import Spool
from ...sfpp_core.spool.use import clean

logger = logging.getLogger(__name__)

FOLDER = "sfpp_spool"
"""In the output folder."""
GIGABYTES_VARIABLE, DEFAULT_GIGABYTES = "SFPP_SPOOL_GB", 20.0
DAYS_VARIABLE, DEFAULT_DAYS = "SFPP_SPOOL_DAYS", 14.0
"""Environment variables: machines differ in their disks, workflows do not."""


def open_spool() -> Spool:
    """The spool, after films that nobody uses have made room."""
    root = Path(folder_paths.get_output_directory(), FOLDER)
    gigabytes, days = _limit(GIGABYTES_VARIABLE, DEFAULT_GIGABYTES), _limit(DAYS_VARIABLE, DEFAULT_DAYS)
    cleaned = clean(root, most_bytes=int(gigabytes * 1e9), most_seconds=days * 86400)
    if cleaned.folders:
        logger.info(
            "Removed %d films from the spool (%.2f GB); %.2f GB are left. %s and %s set its limits.",
            cleaned.folders,
            cleaned.freed / 1e9,
            cleaned.left / 1e9,
            GIGABYTES_VARIABLE,
            DAYS_VARIABLE,
        )
    return Spool(root)


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
