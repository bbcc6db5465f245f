"""A real ComfyUI server for the tests in this folder: one process for the whole session, the pack loaded by ComfyUI.

    def test_something(comfy):
        result = comfy.client.run(workflow)
        path = comfy.server.output_directory / ...

Nothing is skipped: where ComfyUI cannot be started, these tests fail and show why. A failed test shows what the server
wrote while it ran.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from sfpp_client import ComfyClient
from tools.comfy_server import ComfyServer, ServerConfig


class Comfy:
    """A running server and a client for it."""

    def __init__(self, server: ComfyServer) -> None:
        self.server = server
        self.client = ComfyClient(server.url)

    def restart(self) -> None:
        """A new server process over the same folders: only what is on disk survives. `client` is a new one too."""
        self.server.stop()
        self.server.start()
        self.client = ComfyClient(self.server.url)


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """The server that all tests share; they see each other's cached results and files, as runs of one artist do.

    It keeps no finished chunks: a video that a test compares with another must not be read from where that one was
    kept.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SFPP_SPOOL_GB", "0")
        with ComfyServer(ServerConfig(base_directory=tmp_path_factory.mktemp("comfyui"))) as server:
            yield Comfy(server)


_LOG = pytest.StashKey[tuple[Path, int]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    comfy = getattr(item, "funcargs", {}).get("comfy")
    if comfy is not None:
        log = comfy.server.log_path
        item.stash[_LOG] = (log, log.stat().st_size)
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and _LOG in item.stash:
        log, start = item.stash[_LOG]
        report.sections.append(("ComfyUI's log of this test", _written_since(log, start)))
    return report


def _written_since(log: Path, start: int) -> str:
    with open(log, "rb") as file:
        file.seek(start)
        return file.read().decode(errors="replace")
