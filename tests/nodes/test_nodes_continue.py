"""An existing clip goes on: its end is what the video begins with, and the file shows both as one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor

from sfpp_client import NodeFailed
from sfpp_core.tiny.family import weights_path
from sfpp_core.video.recording import read_recording
from sfpp_core.video.writer import VideoWriter
from sfpp_core.wan.vae import WanVAE
from tests.helpers.recordings import HEARD, damage_sound, loudness
from tests.helpers.recordings import video as sounding_video
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import ONE_CHUNK, Graph, Link, Studio

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


def test_the_video_begins_with_the_clips_end_and_the_file_with_the_clip(comfy: Comfy):
    graph = Graph()
    model, text_encoder, vae = graph.tiny()
    node = continued(graph, vae)
    size = {"width": [node, 1], "height": [node, 2]}
    video, _ = graph.video(model, graph.text(text_encoder), start=[node, 0], seconds=ONE_CHUNK, seed=61, **size)
    kept = graph.keep([node, 0]), graph.keep(video)
    decode = graph.add(
        "SFPPDecodeToVideo",
        latent=video,
        vae=vae,
        filename_prefix="continued",
        crf=4,
        before=[node, 3],
        thumbnail=False,
    )
    studio = Studio(comfy)
    result = studio.run(graph)
    start, video = (studio.latent(result, node_id) for node_id in kept)

    # 2 s are 32 pictures; 29 of them are 8 latent frames, and 33 would be more than was asked for.
    expected = torch.from_numpy(np.stack([fitted(index) for index in TICKS[-29:]])).permute(3, 0, 1, 2)[None]
    vae_core = WanVAE.from_state_dict({name: weight.float() for name, weight in load_file(weights_path("vae")).items()})
    assert start.shape == (1, 16, 8, 8, 8)
    assert (start - vae_core.eval().encode(expected.float() / 127.5 - 1)).abs().mean() < 0.05
    assert (video[:, :, :8] - start).abs().max() < 1e-5 and video.shape[2] == 8 + 3

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
    video, _ = graph.video(model, graph.text(text_encoder), start=[node, 0], seconds=ONE_CHUNK, seed=62)
    decode = graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix="alone", crf=18, thumbnail=False)
    (file,) = (file for file in Studio(comfy).run(graph).files() if file.node_id == decode)
    assert len(frames_of(comfy.server.output_directory / file.subfolder / file.filename)) == 5 + 12


def test_a_clip_of_another_size_is_refused(comfy: Comfy):
    graph = Graph()
    model, text_encoder, vae = graph.tiny()
    node = continued(graph, vae, width=0, height=0, seconds=0.5)
    video, _ = graph.video(model, graph.text(text_encoder), seed=63)
    graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix="wrong", crf=18, before=[node, 3])
    with pytest.raises(NodeFailed, match="before is 96x80 pixels, the video 64x64"):
        Studio(comfy).run(graph)


class Sounding:
    """Continues clips with sound, and listens to what comes of it."""

    def __init__(self, comfy: Comfy) -> None:
        self.comfy = comfy
        self.studio = Studio(comfy)

    def made(self, video: Callable[[Graph], Link], **inputs: Any) -> tuple[str, Tensor | None, int]:
        """What the node says, the samples of the file, and its number of pictures."""
        graph = Graph()
        model, text_encoder, vae = graph.tiny()
        clip = video(graph)
        settings = {"seconds": 0.5, "width": 64, "height": 64}
        node = graph.add("SFPPContinueVideo", video=clip, vae=vae, **settings)
        latent, _ = graph.video(model, graph.text(text_encoder), start=[node, 0], seed=64)
        inputs = {name: value(graph) if callable(value) else value for name, value in inputs.items()}
        settings = {"filename_prefix": "sounding", "crf": 18, "thumbnail": False, "before": [node, 3]}
        decode = graph.add("SFPPDecodeToVideo", latent=latent, vae=vae, **settings | inputs)
        result = self.studio.run(graph)
        (file,) = (file for file in result.files() if file.node_id == decode)
        path = self.comfy.server.output_directory / file.subfolder / file.filename
        said = "".join(result.outputs[decode].get("text", ()))
        num_pictures = len(frames_of(path))
        recording = read_recording(path, 0.0, num_pictures / 16)
        return said, None if recording is None else recording.sound.samples, num_pictures

    def file(self, name: str, **settings: Any) -> Callable[[Graph], Link]:
        """A clip in ComfyUI's input folder, for Load Video."""
        sounding_video(self.comfy.server.input_directory / name, **settings)
        return lambda graph: [graph.add("LoadVideo", file=name), 0]


@pytest.fixture
def sounding(comfy: Comfy) -> Sounding:
    return Sounding(comfy)


def is_beeping(samples: Tensor, seconds: int, *, channel: int = 0) -> bool:
    """Whether the clip's tone is heard in each of its first seconds, between it nothing, and then silence.

    Raises AssertionError where there is something else.
    """
    beeps = [loudness(samples, 48000, second + 0.1, second + 0.4)[channel] for second in range(seconds)]
    rests = [loudness(samples, 48000, second + 0.6, second + 0.9)[channel] for second in range(seconds)]
    rest = loudness(samples, 48000, seconds + 0.1, samples.shape[1] / 48000)[channel]
    assert max(*rests, rest) < 0.02, "something is heard where the clip is silent"
    return min(beeps) > 0.9 * HEARD


def test_the_clips_own_sound_is_heard_while_it_is_shown(sounding: Sounding):
    said, samples, num_pictures = sounding.made(sounding.file("beeping.mp4"))
    assert num_pictures == 32 + 12 and samples.shape[0] == 2
    assert is_beeping(samples, 2) and "sound" not in said


def test_a_clip_without_sound_makes_a_video_without(sounding: Sounding):
    said, samples, _ = sounding.made(sounding.file("silent.mp4", layouts=()))
    assert samples is None and "sound" not in said


def test_sound_that_is_wired_takes_the_place_of_the_clips_and_this_is_told(sounding: Sounding):
    def silence(graph: Graph) -> Link:
        return [graph.add("EmptyAudio", duration=10.0, sample_rate=48000, channels=2), 0]

    said, samples, _ = sounding.made(sounding.file("dropped.mp4"), audio=silence)
    assert samples.abs().max() < 0.01
    assert "The source video in before has sound of its own, which is dropped because audio is wired" in said
    assert "audio lasts 10.00 s and the video 2.75 s: what is longer of audio is cut off" in said
    said, _, _ = sounding.made(sounding.file("silent.mp4", layouts=()), audio=silence)
    assert "dropped" not in said


def test_sound_that_is_longer_than_the_clips_pictures_is_cut_and_this_is_told(sounding: Sounding):
    said, samples, _ = sounding.made(sounding.file("longer.mp4", sound_seconds=4.0))
    assert is_beeping(samples, 2) and "is longer than its pictures" in said


@pytest.mark.parametrize("share", (0.5, 1.0))
def test_sound_that_cannot_be_decoded_is_told_and_the_video_is_made(sounding: Sounding, share: float):
    name = f"damaged{share}.mkv"
    clip = sounding.file(name, codec="flac")
    damage_sound(sounding.comfy.server.input_directory / name, share=share)
    said, samples, num_pictures = sounding.made(clip)
    assert num_pictures == 32 + 12 and "could not be decoded" in said
    assert samples is None or (loudness(samples, 48000, 0.1, 0.4)[0] > 0.9 * HEARD) == (share < 1)


def test_a_clip_of_pictures_and_sound_in_memory_keeps_its_sound(sounding: Sounding):
    load = sounding.file("parts.mp4")

    def joined(graph: Graph) -> Link:
        parts = graph.add("GetVideoComponents", video=load(graph))
        return [graph.add("CreateVideo", images=[parts, 0], audio=[parts, 1], fps=16.0), 0]

    said, samples, num_pictures = sounding.made(joined)
    assert num_pictures == 32 + 12 and is_beeping(samples, 2) and "sound" not in said


def test_a_trimmed_clip_has_the_sound_of_its_part(sounding: Sounding):
    """Stock Trim Video, from the version on that has it; before, the same part is cut by hand."""
    whole = sounding.file("trimmed.mp4", seconds=4.0, sound_seconds=4.0)
    has_trim = "Video Slice" in sounding.comfy.client.object_info()

    def part(graph: Graph) -> Link:
        if has_trim:
            settings = {"start_time": 1.5, "duration": 2.0, "strict_duration": False}
            return [graph.add("Video Slice", video=whole(graph), **settings), 0]
        parts = graph.add("GetVideoComponents", video=whole(graph))
        images = [graph.add("ImageFromBatch", image=[parts, 0], batch_index=24, length=32), 0]
        audio = [graph.add("TrimAudioDuration", audio=[parts, 1], start_index=1.5, duration=2.0), 0]
        return [graph.add("CreateVideo", images=images, audio=audio, fps=16.0), 0]

    said, samples, num_pictures = sounding.made(part)
    assert num_pictures == 32 + 12 and "sound" not in said
    assert loudness(samples, 48000, 0.1, 0.4)[0] < 0.02 and loudness(samples, 48000, 0.6, 0.9)[0] > 0.9 * HEARD
    assert loudness(samples, 48000, 2.1, 2.6)[0] < 0.02, "after the part comes silence, not what was cut off"
