"""Videos that an earlier version of the pack saved go on: the states in data/a493ef0 were made by that commit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sfpp_client import NodeFailed
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Studio, equal
from tests.nodes.test_nodes_models import LORA, with_lora, write_lora

DATA = Path(__file__).parent / "data" / "a493ef0"
OTHER_PROCESSORS = 2e-4
"""How far another processor's rounding may carry a chunk of the built-in model from the recorded one."""
STRENGTHS = {"plain": None, "lora": 0.7}


@pytest.fixture(scope="module", autouse=True)
def files(comfy: Comfy) -> Iterator[None]:
    write_lora(comfy.server.models_directory("loras") / LORA)
    for name in STRENGTHS:
        shutil.copyfile(DATA / f"{name}.sfpp.safetensors", comfy.server.input_directory / f"{name}.sfpp.safetensors")
    yield


def continued(name: str, strength: float | None) -> tuple[Graph, str]:
    """A workflow that goes on with a saved state, and the node that keeps the latent."""
    graph = Graph()
    model, _, _ = graph.tiny()
    if strength is not None:
        model = with_lora(graph, model, strength)
    state = [graph.add("SFPPLoadState", state_file=f"{name}.sfpp.safetensors [input]"), 0]
    return graph, graph.keep(graph.more(model, state)[1])


@pytest.mark.parametrize("name", STRENGTHS)
def test_a_state_of_an_earlier_version_goes_on_as_it_did_then(comfy: Comfy, name: str):
    studio = Studio(comfy)
    graph, kept = continued(name, STRENGTHS[name])
    latent = studio.latent(studio.run(graph), kept)
    expected = load_file(DATA / f"{name}_extended.safetensors")["latent"]
    num_saved = expected.shape[2] // 2
    assert equal(latent[:, :, :num_saved], expected[:, :, :num_saved])
    torch.testing.assert_close(latent, expected, atol=OTHER_PROCESSORS, rtol=0)


def test_it_knows_its_loras(comfy: Comfy):
    for name, strength in (("plain", 0.7), ("lora", None), ("lora", 0.6)):
        with pytest.raises(NodeFailed, match="made by another model"):
            Studio(comfy).run(continued(name, strength)[0])
