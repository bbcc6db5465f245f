"""A disk without room, whatever it is that tells of it."""

from __future__ import annotations

import errno
import re

from safetensors import SafetensorError

NUMBERS = (errno.ENOSPC, errno.EDQUOT)
"""The system's: no space on the device, and a quota that is used up."""
_TOLD = re.compile(r"\(os error (\d+)\)")


def means_full_disk(error: OSError | SafetensorError) -> bool:
    """Whether an error says that a disk, or what of it may be used, is full."""
    if isinstance(error, OSError):
        return error.errno in NUMBERS
    # It holds the system's error as text only.
    told = _TOLD.search(str(error))
    return told is not None and int(told[1]) in NUMBERS
