"""Fetches what a run has made into a local folder; nothing is lost that is there, or that another job fetches, too."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from scripts.comfy_client import ComfyClient, OutputFile, ServerUnreachable, StrangeAnswer
from sfpp_core.files import first_free

_DELAY_S = 1.0


def fetch(client: ComfyClient, file: OutputFile, folder: Path, *, patience_s: float) -> Path:
    """Copy a file that a run made into the folder; return where it is.

    It is called as on the server, with a number if that name is taken: every server counts its films from 1, and jobs
    that share a folder may end together.

    Args:
        patience_s: seconds for which the server may be away, or somebody else answer in its place.

    Raises:
        ResultGone, ServerUnreachable, StrangeAnswer: the server does not give it.
        OSError: it cannot be written.
    """
    with first_free(_candidates(folder / Path(file.filename).name)) as path:
        _download(client, file, path, patience_s)
        return path


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for number in count(1):
        yield path.with_name(f"{path.stem} ({number}){path.suffix}")


def _download(client: ComfyClient, file: OutputFile, path: Path, patience_s: float) -> None:
    failing_since: float | None = None
    while True:
        try:
            client.download(file, path.parent, name=path.name)
            return
        except OSError as error:
            raise OSError(f"{path} could not be written: {error.strerror or error}") from error
        except (ServerUnreachable, StrangeAnswer) as error:
            now = time.monotonic()
            if failing_since is None:
                failing_since = now
            if now - failing_since >= patience_s:
                raise
            if now == failing_since:
                print(f"queue: {error}; trying again to fetch {file.filename}", file=sys.stderr, flush=True)
            time.sleep(_DELAY_S)
