"""What the tests of wired nodes share: a server with the stand-ins for other packs, files to load, and one short run.

The stand-ins lie in wired_packs/, one file a pack; ComfyUI loads them as it loads any pack of a single file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfpp_client import Event, NodeFailed, Progress, RunResult, WorkflowRefused
from sfpp_core.tiny.family import weights_path
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import ONE_CHUNK, Graph, Link, Studio
from tools.comfy_server import ComfyServer, ServerConfig

PACKS = Path(__file__).parent / "wired_packs"
SPOOL = "sfpp_spool"

STUDENT = "student.safetensors"
"""The built-in student."""
OTHERS = {
    "noisy.safetensors": lambda weight, drawn: weight + 0.05 * weight.std() * drawn,
    "negated.safetensors": lambda weight, drawn: -weight,
    "redrawn.safetensors": lambda weight, drawn: weight.std() * drawn,
}
"""Students whose linear layers all have other weights, and everything else the same."""
NOISY = "noisy.safetensors"

LORA = "a_lora.safetensors"
CONTROL_LORA = "control_lora.safetensors"
"""Makes the first layer take 32 channels; its header asks for that."""
VAE = "tiny.safetensors"

NUM_COPIES = 160
"""Names for one file of weights, so that so many loaders each make a model of their own."""

ONE_STEP = "1000"

again = count(1)
"""Numbers that no node has had: what comes after it is run and not remembered."""


def copy_of(name: str, number: int) -> str:
    """Another name of the same file."""
    return f"copy{number:03}_{name}"


@contextmanager
def wired_server(base: Path, *, keeps: bool) -> Iterator[Comfy]:
    """A server with the stand-ins and the files.

    keeps: whether finished chunks are kept on disk, as they are unless a test compares what is sampled.
    """
    (base / "custom_nodes").mkdir(parents=True)
    for pack in sorted(PACKS.glob("*.py")):
        shutil.copyfile(pack, base / "custom_nodes" / pack.name)
    server = ComfyServer(ServerConfig(base_directory=base, preview_method="none"))
    _write_files(server)
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("SFPP_SPOOL_GB", raising=False)
        if not keeps:
            environment.setenv("SFPP_SPOOL_GB", "0")
        with server:
            yield Comfy(server)


def _write_files(server: ComfyServer) -> None:
    models, loras = server.models_directory("diffusion_models"), server.models_directory("loras")
    shutil.copyfile(weights_path("student"), models / STUDENT)
    weights = load_file(models / STUDENT)
    with safe_open(models / STUDENT, "pt") as file:
        description = file.metadata()
    for name, changed in OTHERS.items():
        drawing = torch.Generator().manual_seed(5)
        other = {
            key: changed(weight.float(), torch.randn(weight.shape, generator=drawing)).to(weight.dtype)
            if weight.ndim == 2
            else weight
            for key, weight in weights.items()
        }
        save_file(other, models / name, description)
    shutil.copyfile(weights_path("vae"), server.models_directory("vae") / VAE)
    for number in range(NUM_COPIES):
        os.link(models / STUDENT, models / copy_of(STUDENT, number))
        if number < 10:
            os.link(server.models_directory("vae") / VAE, server.models_directory("vae") / copy_of(VAE, number))
    _write_lora(loras / LORA, weights)
    _write_control_lora(loras / CONTROL_LORA, weights)


def _write_lora(path: Path, weights: dict[str, Tensor], *, rank: int = 4) -> None:
    """Random changes of every query and feed-forward layer."""
    drawing = torch.Generator().manual_seed(0)
    factors = {}
    for name, weight in weights.items():
        if name.endswith(("self_attn.q.weight", "ffn.0.weight")):
            module = f"diffusion_model.{name.removesuffix('.weight')}"
            factors[f"{module}.lora_A.weight"] = torch.randn(rank, weight.shape[1], generator=drawing) * 0.1
            factors[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], rank, generator=drawing) * 0.1
    save_file(factors, path)


def _write_control_lora(path: Path, weights: dict[str, Tensor], *, rank: int = 4) -> None:
    out, channels, *patch = weights["patch_embedding.weight"].shape
    drawing = torch.Generator().manual_seed(1)
    module = "diffusion_model.patch_embedding"
    factors = {
        f"{module}.lora_down.weight": torch.randn(rank, 2 * channels, *patch, generator=drawing) * 0.02,
        f"{module}.lora_up.weight": torch.randn(out, rank, 1, 1, 1, generator=drawing) * 0.02,
        f"{module}.reshape_weight": torch.tensor([out, 2 * channels, *patch]),
    }
    save_file(factors, path)


Wire = Callable[[Graph, Link], Link]
"""Puts something behind a MODEL or a VAE."""


def plain(graph: Graph, link: Link) -> Link:
    """Nothing."""
    return link


def behind(class_type: str, output: int = 0, socket: str = "model", **inputs: Any) -> Wire:
    """A node."""

    def wire(graph: Graph, link: Link) -> Link:
        return [graph.add(class_type, **{socket: link}, **inputs), output]

    return wire


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run made, or who refused it in which words."""

    latent: Tensor | None = None
    frames: np.ndarray | None = None
    refused_by: str = ""
    """The class of the node that failed."""
    words: str = ""
    began: bool = field(default=False, compare=False)
    """Whether the sampler's bar had moved."""

    def __eq__(self, other: object) -> bool:
        """Bit for bit, and word for word."""
        if not isinstance(other, Outcome):
            return NotImplemented
        same_latent = (self.latent is None) == (other.latent is None) and (
            self.latent is None or torch.equal(self.latent, other.latent)
        )
        same_frames = (self.frames is None) == (other.frames is None) and (
            self.frames is None or np.array_equal(self.frames, other.frames)
        )
        said = (self.refused_by, self.words) == (other.refused_by, other.words)
        return same_latent and same_frames and said

    def __str__(self) -> str:
        if self.refused_by:
            return f"{self.refused_by} refused: {self.words}"
        if self.latent is not None:
            return f"a latent of norm {self.latent.norm():.5f}"
        return f"frames of mean {self.frames.mean():.5f}"


class Bench:
    """Makes short videos on a server, each time again."""

    def __init__(self, comfy: Comfy) -> None:
        self.comfy = comfy
        self.studio = Studio(comfy)

    def sampled(
        self, wire: Wire = plain, *, file: str = STUDENT, seconds: float = ONE_CHUNK, load: Wire | None = None
    ) -> Outcome:
        """SFPP Sampler's latent behind what is wired; `load` makes the MODEL itself."""

        def video(graph: Graph, text: Link) -> Link:
            model = wire(graph, self.model(graph, file, load))
            return graph.video(model, text, seconds=seconds, steps=ONE_STEP)[0]

        return self.outcome(video)

    def stock_sampled(self, wire: Wire = plain, *, file: str = STUDENT) -> Outcome:
        """KSampler's latent of one step."""

        def video(graph: Graph, text: Link) -> Link:
            empty = [graph.add("EmptyHunyuanLatentVideo", width=64, height=64, length=9, batch_size=1), 0]
            settings = {"seed": 7, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"}
            links = {"positive": text, "negative": text, "latent_image": empty}
            return [
                graph.add("KSampler", model=wire(graph, self.model(graph, file)), denoise=1.0, **settings, **links),
                0,
            ]

        return self.outcome(video)

    def decoded(self, wire: Wire = plain, *, file: str = VAE) -> Outcome:
        """The frames of SFPP Decode To Video behind what is wired after the VAE; the latent is of little noise."""
        graph = Graph()
        _, clip, _ = graph.tiny()
        latent, _ = graph.video(self.model(graph, STUDENT), graph.text(clip), steps=ONE_STEP)
        latent = [graph.add("WiredAgainLatent", conditioning=latent, number=next(again)), 0]
        vae = wire(graph, [graph.add("VAELoader", vae_name=file), 0])
        decode = graph.add("SFPPDecodeToVideo", latent=latent, vae=vae, filename_prefix="wired", crf=4, thumbnail=False)

        def frames(result: RunResult) -> dict[str, Any]:
            (video,) = (file for file in result.files() if file.node_id == decode)
            path = self.comfy.server.output_directory / video.subfolder / video.filename
            with av.open(str(path)) as container:
                return {"frames": np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])}

        return self._run(graph, frames)

    def encoded(self, wire: Wire = plain, *, file: str = VAE) -> Outcome:
        """SFPP Continue Video's latent of a clip of one colour."""

        def start(graph: Graph, text: Link) -> Link:
            del text
            pictures = [graph.add("EmptyImage", width=64, height=64, batch_size=9, color=0x3366CC), 0]
            clip = [graph.add("CreateVideo", images=pictures, fps=16.0), 0]
            vae = wire(graph, [graph.add("VAELoader", vae_name=file), 0])
            node = graph.add("SFPPContinueVideo", video=clip, vae=vae, seconds=1.0, width=64, height=64)
            return [graph.add("WiredAgainLatent", conditioning=[node, 0], number=next(again)), 0]

        return self.outcome(start)

    def shown(self, wire: Wire = plain, *, file: str = VAE) -> Outcome:
        """SFPP Sampler's latent, shown by the VAE while it is made."""

        def video(graph: Graph, text: Link) -> Link:
            vae = wire(graph, [graph.add("VAELoader", vae_name=file), 0])
            return graph.video(self.model(graph, STUDENT), text, steps=ONE_STEP, vae=vae)[0]

        return self.outcome(video)

    def outcome(self, video: Callable[[Graph, Link], Link]) -> Outcome:
        """The LATENT that a graph makes of a text that no node has seen."""
        graph = Graph()
        _, clip, _ = graph.tiny()
        text = [graph.add("WiredAgain", conditioning=graph.text(clip), number=next(again)), 0]
        kept = graph.keep(video(graph, text))
        return self._run(graph, lambda result: {"latent": self.studio.latent(result, kept)})

    @staticmethod
    def model(graph: Graph, file: str, load: Wire | None = None) -> Link:
        if load is not None:
            return load(graph, [])
        return [graph.add("UNETLoader", unet_name=file, weight_dtype="default"), 0]

    def _run(self, graph: Graph, made: Callable[[RunResult], dict[str, Any]]) -> Outcome:
        # What was kept would be found, and nothing sampled.
        shutil.rmtree(self.comfy.server.output_directory / SPOOL, ignore_errors=True)
        samplers = {name for name, node in graph.workflow.items() if node["class_type"] == "SFPPSampler"}
        began = []

        def on_event(event: Event) -> None:
            if isinstance(event, Progress) and event.node_id in samplers:
                began.append(event.value)

        try:
            result = self.studio.run(graph, on_event=on_event)
        except NodeFailed as failed:
            return Outcome(refused_by=failed.node_type, words=failed.exception_message, began=bool(began))
        except WorkflowRefused as refused:
            return Outcome(refused_by="the server", words=str(refused))
        return Outcome(**made(result), began=bool(began))
