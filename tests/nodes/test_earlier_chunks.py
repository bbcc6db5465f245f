"""Finished chunks that an earlier version of the pack kept are found: data/487e2cb was written by that commit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sfpp_core.wan.config import to_vae_space
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Link, Studio
from tools.comfy_server import ComfyServer, ServerConfig

DATA = Path(__file__).parent / "data" / "487e2cb" / "sfpp_spool"
MADE_BY = {"torch": "2.11.0+cu130", "comfyui": "0.3.75"}
"""Other versions may compute other bits: there the chunks are rightly not found."""
LINES = (
    "0:00 A red ball bounces slowly up and down in the desert.\n"
    "0:01 A green boat glides slowly to the left in the open sea."
)
VIDEOS = {
    "one prompt": ("1ea20f532095c05964f3", ("ce586051aabff96489e6", "85eeafdb12498b7b572b", "0b3f7846c9b0077c93d3")),
    "a schedule": ("1ea20f532095c05964f3", ("9e5c93d4854a939f3f57", "5d7a25dbfc05a697659f", "85f37109d249e7f7767a")),
    "int8": ("0ab14402b0d2e17b9f60", ("93f47a52a525c4c35f11", "7697cbac38519d016422", "7c00508943d5cd22d1a6")),
}
"""Folder and chunk files of each, by the ends of their names."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    base = tmp_path_factory.mktemp("earlier")
    shutil.copytree(DATA, base / "output" / "sfpp_spool")
    with pytest.MonkeyPatch.context() as environment, ExitStack() as resources:
        # The server that other tests share is told to keep nothing.
        environment.delenv("SFPP_SPOOL_GB", raising=False)
        server = resources.enter_context(ComfyServer(ServerConfig(base_directory=base)))
        comfy = Comfy(server)
        found = {
            "torch": torch.__version__,
            "comfyui": comfy.client.get_json("/system_stats")["system"]["comfyui_version"],
        }
        if found != MADE_BY:
            pytest.skip(f"the chunks were made by {MADE_BY}, this is {found}")
        yield comfy


@pytest.mark.parametrize("name", VIDEOS)
def test_chunks_of_an_earlier_version_are_found_and_none_is_made(earlier: Comfy, name: str) -> None:
    graph = Graph()
    model, clip, _ = graph.tiny()
    positive: Link = graph.text(clip)
    if name == "a schedule":
        schedule = graph.add("SFPPPromptSchedule", clip=clip, lines=LINES, crossfade=0.5, recache=True)
        positive = [schedule, 0]
    storage = {"cache_storage": "int8"} if name == "int8" else {}
    video, _ = graph.video(model, positive, seconds=2.0, seed=77, **storage)
    folder, chunks = VIDEOS[name]
    store = earlier.server.output_directory / "sfpp_spool"
    before = sorted(store.glob("*/*.safetensors"))
    (latent,) = Studio(earlier).latents(graph, video)
    assert sorted(store.glob("*/*.safetensors")) == before, "chunks were made that were there"
    files = [store / f"seed77_8x8_{folder}" / f"{number:06}_{key}.safetensors" for number, key in enumerate(chunks)]
    kept = torch.cat([load_file(file)["latents"] for file in files], dim=2)
    torch.testing.assert_close(latent, to_vae_space(kept), rtol=0, atol=0)
