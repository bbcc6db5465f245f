"""Small workflows in API format for the tests, and how their results are read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sfpp_client import Event, Progress, RunResult
from sfpp_client.workflow import Workflow

PROMPT = "A red ball glides slowly to the left in the desert."
OTHER_PROMPT = "A blue boat bounces quickly up and down at sea."
TIMEOUT_S = 300
ONE_CHUNK = 0.5
"""Seconds that become one chunk of three latent frames: 9 frames at the beginning, 12 later."""

Link = list[Any]
"""[node id, output]."""

AS_PRESET = {"chunk": -1, "window": -1, "sink": -1, "steps": "preset", "shift": -1.0, "context_noise": -1.0}


class Graph:
    """A workflow that is built node by node."""

    def __init__(self) -> None:
        self.workflow: dict[str, dict[str, Any]] = {}
        self._ids = count(1)

    def add(self, class_type: str, **inputs: Any) -> str:
        """Add a node and return its id."""
        node_id = str(next(self._ids))
        self.workflow[node_id] = {"class_type": class_type, "inputs": inputs}
        return node_id

    def tiny(self) -> tuple[Link, Link, Link]:
        """The built-in family: MODEL, CLIP, VAE."""
        node_id = self.add("SFPPLoadTiny")
        return [node_id, 0], [node_id, 1], [node_id, 2]

    def text(self, clip: Link, text: str = PROMPT) -> Link:
        return [self.add("CLIPTextEncode", clip=clip, text=text), 0]

    def video(self, model: Link, positive: Link, *, seconds: float = ONE_CHUNK, **inputs: Any) -> tuple[Link, Link]:
        """SFPPSampler at the built-in model's size, everything else as its preset: LATENT, SFPP_STATE."""
        settings = {"seed": 7, "width": 64, "height": 64, "seconds": seconds, **AS_PRESET} | inputs
        node_id = self.add("SFPPSampler", model=model, positive=positive, **settings)
        return [node_id, 0], [node_id, 1]

    def more(self, model: Link, state: Link, *, seconds: float = ONE_CHUNK, **inputs: Any) -> tuple[Link, Link, Link]:
        """SFPPExtend: new LATENT, whole LATENT, SFPP_STATE."""
        node_id = self.add("SFPPExtend", model=model, state=state, seconds=seconds, **inputs)
        return [node_id, 0], [node_id, 1], [node_id, 2]

    def keep(self, latent: Link) -> str:
        """Save a LATENT so that the test can read it; the node's id."""
        return self.add("SaveLatent", samples=latent, filename_prefix="latents/test")


Run = Callable[..., RunResult]


class Studio:
    """Runs graphs on a server and reads what they kept."""

    def __init__(self, comfy: Any) -> None:
        self._comfy = comfy

    @property
    def server_url(self) -> str:
        """Address of the server, for what no client of ours would send."""
        return self._comfy.server.url

    def run(
        self, workflow: Workflow | Graph, on_event: Callable[[Event], None] | None = None, **options: Any
    ) -> RunResult:
        """Run to the end; raises as ComfyClient.run does."""
        plain = workflow.workflow if isinstance(workflow, Graph) else workflow
        return self._comfy.client.run(plain, on_event=on_event, timeout_s=TIMEOUT_S, **options)

    def latent(self, result: RunResult, node_id: str) -> Tensor:
        """The latent that a `keep` node of this run saved."""
        (file,) = (file for file in result.files() if file.node_id == node_id)
        return load_file(self._comfy.server.output_directory / file.subfolder / file.filename)["latent_tensor"]

    def latents(self, graph: Graph, *links: Link) -> tuple[Tensor, ...]:
        """Run the graph and return these LATENTs of it."""
        kept = [graph.keep(link) for link in links]
        result = self.run(graph)
        return tuple(self.latent(result, node_id) for node_id in kept)


def interrupt_after(comfy: Any, node_id: str, num_chunks: float) -> Callable[[object], None]:
    """Interrupts once the node's bar has passed so many chunks."""

    def on_event(event: object) -> None:
        if isinstance(event, Progress) and event.node_id == node_id and event.value >= num_chunks:
            comfy.client.interrupt()

    return on_event


def equal(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors agree bit for bit."""
    return first.shape == second.shape and torch.equal(first, second)
