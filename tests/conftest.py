"""What every test run has: the choice to leave out what takes long, and workers that share the machine."""

from __future__ import annotations

import os
import sys

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--endurance",
        action="store_true",
        help="also run what takes long: series of kills, hundreds of videos, long ones, floods and fuzzing",
    )

    parser.addoption("--seed", type=int, default=0, help="what fuzzing draws its damages from (default 0)")


def pytest_configure(config: pytest.Config) -> None:
    # Tests start hundreds of processes that import PyTorch, and dozens of ComfyUIs: compiled once, not each time again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    # Workers of pytest-xdist share the cores: each computes with its part of them, and so do the processes it starts.
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if workers is not None:
        os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // int(workers)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--endurance"):
        return
    left_out = [item for item in items if item.get_closest_marker("endurance")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("endurance")]
