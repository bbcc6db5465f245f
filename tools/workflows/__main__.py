"""Writes workflows/ and workflows/api/ from their descriptions: after a node or a description has changed.

    python -m tools.workflows [--server http://127.0.0.1:8188]

Without a server that runs this version of the pack, one is started for the purpose. A test keeps the files equal to
what this writes.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sfpp_client import ComfyClient
from tools.comfy_server import ROOT, ComfyServer, ServerConfig
from tools.workflows.format import api_format, page_format, to_json
from tools.workflows.graphs import GRAPHS

PAGE_FOLDER = ROOT / "workflows"
API_FOLDER = PAGE_FOLDER / "api"


def files(object_info: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Every workflow file with its text."""
    for graph in GRAPHS:
        yield PAGE_FOLDER / f"{graph.name}.json", to_json(page_format(graph, object_info)) + "\n"
        yield API_FOLDER / f"{graph.name}.json", to_json(api_format(graph, object_info)) + "\n"


def object_info_of(server: str | None) -> dict[str, Any]:
    """The description of all nodes, from a running server or, without one, from one that is started for this."""
    if server is not None:
        return ComfyClient(server).object_info()
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(ServerConfig(base_directory=Path(folder))) as own,
    ):
        return ComfyClient(own.url).object_info()


def main() -> None:
    parser = argparse.ArgumentParser(description="Write workflows/ and workflows/api/ from their descriptions.")
    parser.add_argument("--server", help="address of a ComfyUI that runs this version of the pack")
    for path, text in files(object_info_of(parser.parse_args().server)):
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
