"""Makes the pictures of what the built-in model makes: the workflows' thumbnails and the README's stills.

    python -m scripts.pictures

Every workflow runs as it ships, through a ComfyUI that is started for the purpose; about five minutes on two cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from PIL import Image

from scripts.comfy_client import ComfyClient, Workflow
from scripts.comfy_server import ROOT, ComfyServer, ServerConfig
from scripts.comfy_workflow import load_workflow, nodes_of_class, with_inputs
from scripts.workflows import API_FOLDER, PAGE_FOLDER
from sfpp_core.files import replacing
from sfpp_core.video.reader import VideoReader

TIMEOUT_S = 3600.0

SIDE = 512
"""Pixels of a thumbnail, which is square."""
EYE_LEVEL = 0.62
"""Where objects of the toy world are, as a share of a picture's height from above."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """What a workflow's picture shows."""

    workflow: str
    films: tuple[str, ...]
    """Ids of the nodes that write the films."""
    seconds: tuple[float, ...]
    """Moments of each of them, in order."""
    report: str | None = None
    """Id of the node whose picture stands below them."""


THUMBNAILS = (
    Thumbnail(workflow="tiny_branch_three_endings", films=("12", "22", "32"), seconds=(19.0,)),
    Thumbnail(workflow="tiny_continue_video", films=("7",), seconds=(1.0, 4.0, 14.0)),
    Thumbnail(workflow="tiny_extend_with_second_prompt", films=("6",), seconds=(9.0, 19.0)),
    Thumbnail(workflow="tiny_film_with_stability_report", films=("5",), seconds=(20.0,), report="7"),
    Thumbnail(workflow="tiny_image_to_video", films=("10",), seconds=(9.0,)),
    Thumbnail(workflow="tiny_prompt_schedule", films=("4",), seconds=(9.0, 19.0, 29.0)),
    Thumbnail(workflow="tiny_text_to_long_video", films=("4",), seconds=(30.0,)),
)

STILLS = ROOT / "docs" / "media" / "tiny_film.png"
STILLS_PROMPTS = (
    "A red ball bounces slowly up and down in a green meadow with flowers.",
    "A yellow lantern bounces slowly up and down in the desert.",
    "A blue boat glides slowly to the right in the mountains.",
    "A white kite glides quickly to the right in the open sea.",
)
STILLS_SECONDS = (0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0)
STILL_SIDE = 128
GAP = 2


def frames_at(film: Path, seconds: Sequence[float]) -> list[Image.Image]:
    """What a film shows so many seconds after its beginning; ValueError if it is shorter."""
    found = []
    with VideoReader(film) as reader:
        for moment in seconds:
            shown = next(reader.pictures(moment), None)
            if shown is None:
                raise ValueError(f"{film.name} shows nothing at {moment} s; it is shorter.")
            found.append(Image.fromarray(shown[1]))
    return found


def bands(pictures: Sequence[Image.Image], size: tuple[int, int]) -> Image.Image:
    """Square pictures below each other on one of `size` (width, height), each cut to a band around EYE_LEVEL that is as
    wide as the sheet, and no higher than that."""
    width, height = size
    sheet = Image.new("RGB", size)
    edges = [round(height * index / len(pictures)) for index in range(len(pictures) + 1)]
    for picture, (top, bottom) in zip(pictures, pairwise(edges), strict=True):
        visible = (bottom - top) * picture.width / width
        upper = min(max(0.0, EYE_LEVEL * picture.height - visible / 2), picture.height - visible)
        box = (0, upper, picture.width, upper + visible)
        sheet.paste(picture.resize((width, bottom - top), Image.Resampling.BICUBIC, box), (0, top))
    return sheet


def grid(rows: Sequence[Sequence[Image.Image]], side: int) -> Image.Image:
    """Rows of square pictures, white lines between them."""
    step = side + GAP
    sheet = Image.new("RGB", (step * len(rows[0]) - GAP, step * len(rows) - GAP), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            sheet.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (step * column, step * row))
    return sheet


class Studio:
    """Runs workflows and shows what they make."""

    def __init__(self, client: ComfyClient, folder: Path) -> None:
        """`folder` takes the files that are fetched."""
        self._client = client
        self._folder = folder

    def thumbnail(self, shown: Thumbnail) -> Image.Image:
        """A square picture of what a workflow makes."""
        made = self._run(load_workflow(API_FOLDER / f"{shown.workflow}.json"))
        pictures = [picture for node in shown.films for picture in frames_at(made[node], shown.seconds)]
        if shown.report is None:
            return bands(pictures, (SIDE, SIDE))
        sheet = Image.new("RGB", (SIDE, SIDE), "white")
        sheet.paste(bands(pictures, (SIDE, SIDE // 4)), (0, 0))
        with Image.open(made[shown.report]) as report:
            height = report.height * SIDE // report.width
            sheet.paste(report.convert("RGB").resize((SIDE, height), Image.Resampling.LANCZOS), (0, SIDE // 4))
        return sheet

    def stills(self) -> Image.Image:
        """Moments of a film of each of STILLS_PROMPTS, a film a row."""
        workflow = load_workflow(API_FOLDER / "tiny_text_to_long_video.json")
        workflow = with_inputs(workflow, "SFPPSampler", seconds=STILLS_SECONDS[-1] + 1)
        rows = []
        for prompt in STILLS_PROMPTS:
            made = self._run(with_inputs(workflow, "CLIPTextEncode", text=prompt))
            rows += [frames_at(made[node], STILLS_SECONDS) for node in nodes_of_class(workflow, "SFPPDecodeToVideo")]
        return grid(rows, STILL_SIDE)

    def _run(self, workflow: Workflow) -> dict[str, Path]:
        """The file that each node of a workflow makes."""
        files = self._client.run(workflow, timeout_s=TIMEOUT_S).files()
        return {file.node_id: self._client.download(file, self._folder) for file in files}


def main() -> None:
    """Command line; overwrites the pictures that ship."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ComfyServer(ServerConfig(base_directory=Path(folder))) as server,
    ):
        studio = Studio(ComfyClient(server.url), Path(folder))
        for thumbnail in THUMBNAILS:
            _replace(PAGE_FOLDER / f"{thumbnail.workflow}.jpg", studio.thumbnail(thumbnail))
        _replace(STILLS, studio.stills())


def _replace(path: Path, picture: Image.Image) -> None:
    with replacing(path) as unfinished:
        picture.save(unfinished, quality=85, optimize=True)
    print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
