"""Tests that need processes of their own: several that form one run, and ones that may be killed."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from typing import Any

import torch

PORT = "MASTER_PORT"
"""Environment variable that says where processes find one another."""
_CONTEXT = multiprocessing.get_context("forkserver")
# Processes start in no time, because they are copies of one that has imported this and done nothing else.
_CONTEXT.set_forkserver_preload(
    ["tests.helpers.line_task", "tests.helpers.stage_cases", "training.stages.evaluate", "torch._dynamo"]
)


def start(function: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None) -> BaseProcess:
    """Call a function of a module in a new process."""
    process = _CONTEXT.Process(target=_enter, args=(environment or {}, function, arguments), daemon=True)
    process.start()
    return process


def start_together(function: Callable[..., Any], *arguments: Any, count: int = 2) -> list[BaseProcess]:
    """Call a function in each of `count` processes that find one another as torchrun would have them."""
    common = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", PORT: free_port()}
    ranks = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    return [start(function, *arguments, environment=rank) for rank in ranks]


def free_port() -> str:
    """One for `PORT`. Processes that form one run after another need one for each, lest a quick one meets a slow one's
    former run.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def exit_codes(processes: list[BaseProcess], *, seconds: float = 600) -> list[int | None]:
    """Wait for processes and say how they ended; None for one that has not, which is killed."""
    for process in processes:
        process.join(seconds)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def run_together(function: Callable[..., Any], *arguments: Any, count: int = 2) -> None:
    """The same, to the end, which must be a good one."""
    assert exit_codes(start_together(function, *arguments, count=count)) == [0] * count


def _enter(environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    function(*arguments)
