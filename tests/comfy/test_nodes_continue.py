"""An existing clip goes on: its end is what the film begins with, and the file shows both as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from scripts.comfy_client import NodeFailed
from sfpp_core.tiny.family import weights_path
from sfpp_core.video.writer import VideoWriter
from sfpp_core.wan.vae import WanVAE
from tests.comfy.conftest import Comfy
from tests.comfy.graphs import ONE_CHUNK, Graph, Link, Studio

CLIP = "drift.mp4"
RATE, NUM_PICTURES = 24, 72
"""Three seconds."""
TICKS = [tick * RATE // 16 for tick in range(48)]
"""The pictures that are in view sixteen times a second."""


def picture(index: int) -> np.ndarray:
    """80 rows of 96: a bright square that moves to the right, on a slope of grey."""
    image = np.repeat(np.linspace(40, 160, 80, dtype=np.uint8)[:, None, None], 96, axis=1).repeat(3, axis=2)
    image[30:50, 10 + index // 2 : 30 + index // 2] = (220, 60, 40)
    return image


def fitted(index: int) -> np.ndarray:
    return np.asarray(ImageOps.fit(Image.fromarray(picture(index)), (64, 64), Image.Resampling.LANCZOS))


@pytest.fixture(scope="module", autouse=True)
def clip(comfy: Comfy) -> Iterator[None]:
    path = comfy.server.input_directory / CLIP
    with VideoWriter(path, 96, 80, fps=RATE, crf=4) as writer:
        for index in range(NUM_PICTURES):
            writer.write(torch.from_numpy(picture(index))[None])
    yield
    path.unlink()


def continued(graph: Graph, vae: Link, **inputs: object) -> str:
    video = [graph.add("LoadVideo", file=CLIP), 0]
    return graph.add("SFPPContinueVideo", video=video, vae=vae, **{"seconds": 2.0, "width": 64, "height": 64} | inputs)


def frames_of(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_the_film_begins_with_the_clips_end_and_the_file_with_the_clip(comfy: Comfy):
    graph = Graph()
    model, text_encoder, vae = graph.tiny()
    node = continued(graph, vae)
    size = {"width": [node, 1], "height": [node, 2]}
    film, _ = graph.film(model, graph.text(text_encoder), start=[node, 0], seconds=ONE_CHUNK, seed=61, **size)
    kept = graph.keep([node, 0]), graph.keep(film)
    decode = graph.add(
        "SFPPDecodeToVideo", latent=film, vae=vae, filename_prefix="continued", crf=4, before=[node, 3], thumbnail=False
    )
    studio = Studio(comfy)
    result = studio.run(graph)
    start, film = (studio.latent(result, node_id) for node_id in kept)

    # 2 s are 32 pictures; 29 of them are 8 latent frames, and 33 would be more than was asked for.
    expected = torch.from_numpy(np.stack([fitted(index) for index in TICKS[-29:]])).permute(3, 0, 1, 2)[None]
    vae_core = WanVAE.from_state_dict({name: weight.float() for name, weight in load_file(weights_path("vae")).items()})
    assert start.shape == (1, 16, 8, 8, 8)
    assert (start - vae_core.eval().encode(expected.float() / 127.5 - 1)).abs().mean() < 0.05
    assert (film[:, :, :8] - start).abs().max() < 1e-5 and film.shape[2] == 8 + 3

    (file,) = (file for file in result.files() if file.node_id == decode)
    shown = frames_of(comfy.server.output_directory / file.subfolder / file.filename)
    assert len(shown) == len(TICKS) + 12
    for index, frame in zip(TICKS, shown, strict=False):
        assert np.abs(frame.astype(int) - fitted(index).astype(int)).mean() < 4


def test_a_side_of_zero_is_the_clips_own(comfy: Comfy):
    graph = Graph()
    *_, vae = graph.tiny()
    node = continued(graph, vae, width=0, height=0, seconds=60.0)
    (start,) = Studio(comfy).latents(graph, [node, 0])
    assert start.shape == (1, 16, 12, 10, 12), "45 of 48 pictures, 80 x 96 pixels"


def test_without_the_clip_the_file_begins_with_its_encoded_end(comfy: Comfy):
    graph = Graph()
    model, text_encoder, vae = graph.tiny()
    node = continued(graph, vae, seconds=0.5)
    film, _ = graph.film(model, graph.text(text_encoder), start=[node, 0], seconds=ONE_CHUNK, seed=62)
    decode = graph.add("SFPPDecodeToVideo", latent=film, vae=vae, filename_prefix="alone", crf=18, thumbnail=False)
    (file,) = (file for file in Studio(comfy).run(graph).files() if file.node_id == decode)
    assert len(frames_of(comfy.server.output_directory / file.subfolder / file.filename)) == 5 + 12


def test_a_clip_of_another_size_is_refused(comfy: Comfy):
    graph = Graph()
    model, text_encoder, vae = graph.tiny()
    node = continued(graph, vae, width=0, height=0, seconds=0.5)
    film, _ = graph.film(model, graph.text(text_encoder), seed=63)
    graph.add("SFPPDecodeToVideo", latent=film, vae=vae, filename_prefix="wrong", crf=18, before=[node, 3])
    with pytest.raises(NodeFailed, match="before is 96x80 pixels, the film 64x64"):
        Studio(comfy).run(graph)
