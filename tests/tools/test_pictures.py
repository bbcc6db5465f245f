"""The pictures that scripts/pictures makes show the moments that they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfpp_core.video.writer import VideoWriter
from tools.pictures import GAP, THUMBNAILS, frames_at, grid
from tools.workflows.graphs import GRAPHS

COLOURS = ((220, 40, 40), (40, 220, 40), (40, 40, 220))


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A second of each colour."""
    path = tmp_path / "video.mp4"
    with VideoWriter(path, 64, 64, fps=8, crf=4) as writer:
        for colour in COLOURS:
            writer.write(torch.tensor(colour).div(255).expand(8, 64, 64, 3))
    return path


def means(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=float).mean(axis=(0, 1))


def test_frames_are_of_their_moment(video: Path):
    for picture, colour in zip(frames_at(video, (0.0, 1.5, 2.8)), COLOURS, strict=True):
        assert np.abs(means(picture) - colour).max() < 8


def test_a_video_that_is_too_short_is_named(video: Path):
    with pytest.raises(ValueError, match=r"video\.mp4 shows nothing at 3\.5 s"):
        frames_at(video, (0.0, 3.5))


def test_a_grid_has_white_lines_between():
    sheet = np.asarray(grid([[Image.new("RGB", (8, 8), colour) for colour in COLOURS]] * 2, 16))
    assert sheet.shape == (2 * 16 + GAP, 3 * 16 + 2 * GAP, 3)
    assert (sheet[16 : 16 + GAP] == 255).all() and (sheet[:, 16 : 16 + GAP] == 255).all()
    assert (sheet[:16, :16] == COLOURS[0]).all() and (sheet[-16:, -16:] == COLOURS[2]).all()


def test_thumbnails_name_nodes_that_make_what_they_show():
    graphs = {graph.name: {str(node.id): node.type for node in graph.nodes()} for graph in GRAPHS}
    assert sorted(shown.workflow for shown in THUMBNAILS) == sorted(name for name in graphs if name.startswith("tiny_"))
    for shown in THUMBNAILS:
        types = graphs[shown.workflow]
        assert {types[node] for node, _ in shown.shots} == {"SFPPDecodeToVideo"}
        assert len(shown.shots) in ((1, 4) if shown.report is None else (4,))
        assert shown.report is None or types[shown.report] == "SFPPStabilityReport"
