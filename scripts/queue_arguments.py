"""The command line of `scripts.queue`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from scripts.comfy_client import ComfyClient
from scripts.queue_outcome import MEANINGS
from scripts.queue_settings import Setting

DEFAULT_SERVER = "http://127.0.0.1:8188"


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for; leaves the program with exit code 2 and a message if that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.queue",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Queues a workflow on a ComfyUI server, follows it, and fetches what it makes. Progress goes to "
        "stderr,\nthe paths of the results to stdout, one a line.",
        epilog="exit codes:\n" + "\n".join(f"  {code:3d}  {meaning}" for code, meaning in MEANINGS.items()),
    )
    _add_job(parser)
    _add_conduct(parser)
    return parser.parse_args(words)


def _add_job(parser: argparse.ArgumentParser) -> None:
    """What is to be made, where, and where to."""
    add = parser.add_argument
    add("workflow", type=Path, metavar="WORKFLOW.json", help="the workflow in API format")
    add(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="set an input: prompt=..., seconds=60, NODE_ID.input=..., TITLE.input=..., CLASS.input=..., or "
        "*.input=... for all; image=@FILE uploads a local file. May be repeated",
    )
    add(
        "--out", type=Path, metavar="DIR", help="fetch the results into this folder (default: leave them on the server)"
    )
    add("--server", type=_client, default=DEFAULT_SERVER, metavar="URL", help=f"default: {DEFAULT_SERVER}")


def _add_conduct(parser: argparse.ArgumentParser) -> None:
    """What to tell, and how long to try."""
    add = parser.add_argument
    add("--list", action="store_true", help="print what the workflow lets you set, with present values, and end")
    add("--json", action="store_true", help="print one JSON object on stdout in place of paths")
    add("--quiet", action="store_true", help="show no progress")
    add(
        "--timeout",
        type=_seconds,
        default=math.inf,
        metavar="S",
        help="stop the run after so many seconds, waiting included",
    )
    add(
        "--patience",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="how long the server may be away meanwhile (default: 60)",
    )
    add(
        "--retries",
        type=_count,
        default=0,
        metavar="N",
        help="queue again if the server was restarted meanwhile (default: 0)",
    )


def _setting(words: str) -> Setting:
    try:
        return Setting.parse(words)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _client(url: str) -> ComfyClient:
    try:
        return ComfyClient(url)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text} is no time; give seconds, 0 or more")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no count; give a whole number, 0 or more")
    return int(text)
