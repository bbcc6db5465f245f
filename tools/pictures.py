"""Makes the pictures of what the built-in model makes: the workflows' thumbnails and the README's stills.

    python -m tools.pictures

Every workflow runs as it ships, through a ComfyUI that is started for the purpose; about five minutes on two cores.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from sfpp_client import ComfyClient, Workflow
from sfpp_client.workflow import load_workflow, nodes_of_class, with_inputs
from sfpp_core.files import replacing
from sfpp_core.video.reader import VideoReader
from tools.comfy_server import ROOT, ComfyServer, ServerConfig
from tools.workflows.__main__ import API_FOLDER, PAGE_FOLDER

TIMEOUT_S = 3600.0

SIDE = 512
"""Pixels of a thumbnail, which is square."""
GAP = 2
"""Pixels between pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Thumbnail:
    """The content of a workflow's picture."""

    workflow: str
    shots: tuple[tuple[str, float], ...]
    """One or four: the id of a node that writes a video, and seconds from its beginning."""
    report: str | None = None
    """Id of the node whose picture stands below four shots in a row."""


THUMBNAILS = (
    Thumbnail(workflow="tiny_branch_three_endings", shots=(("12", 5.0), ("12", 19.0), ("22", 19.0), ("32", 19.0))),
    Thumbnail(workflow="tiny_continue_video", shots=(("7", 1.0), ("7", 4.0), ("7", 9.0), ("7", 14.0))),
    Thumbnail(workflow="tiny_extend_with_second_prompt", shots=(("6", 3.0), ("6", 7.0), ("6", 13.0), ("6", 18.0))),
    Thumbnail(
        workflow="tiny_film_with_stability_report",
        shots=(("5", 5.0), ("5", 20.0), ("5", 35.0), ("5", 50.0)),
        report="7",
    ),
    Thumbnail(workflow="tiny_image_to_video", shots=(("10", 6.0),)),
    Thumbnail(workflow="tiny_prompt_schedule", shots=(("4", 6.0), ("4", 17.0), ("4", 19.0), ("4", 28.0))),
    Thumbnail(workflow="tiny_text_to_long_video", shots=(("4", 36.0),)),
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


def frames_at(video: Path, seconds: Sequence[float]) -> list[Image.Image]:
    """Return what a video shows so many seconds after its beginning; ValueError if it is shorter."""
    found = []
    with VideoReader(video) as reader:
        for moment in seconds:
            shown = next(reader.pictures(moment), None)
            if shown is None:
                raise ValueError(f"{video.name} shows nothing at {moment} s; it is shorter.")
            found.append(Image.fromarray(shown[1]))
    return found


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
        pictures = [frames_at(made[node], (seconds,))[0] for node, seconds in shown.shots]
        if len(pictures) == 1:
            return grid([pictures], SIDE)
        if shown.report is None:
            return grid([pictures[:2], pictures[2:]], (SIDE - GAP) // 2)
        row = grid([pictures], (SIDE - 3 * GAP) // 4)
        sheet = Image.new("RGB", (SIDE, SIDE), "white")
        sheet.paste(row, ((SIDE - row.width) // 2, 0))
        with Image.open(made[shown.report]) as report:
            height = report.height * SIDE // report.width
            sheet.paste(report.convert("RGB").resize((SIDE, height), Image.Resampling.LANCZOS), (0, row.height))
        return sheet

    def stills(self) -> Image.Image:
        """Moments of a video of each of STILLS_PROMPTS, a video a row."""
        workflow = load_workflow(API_FOLDER / "tiny_text_to_long_video.json")
        workflow = with_inputs(workflow, "SFPPSampler", seconds=STILLS_SECONDS[-1] + 1)
        (writer,) = nodes_of_class(workflow, "SFPPDecodeToVideo")
        videos = (self._run(with_inputs(workflow, "CLIPTextEncode", text=text))[writer] for text in STILLS_PROMPTS)
        return grid([frames_at(video, STILLS_SECONDS) for video in videos], STILL_SIDE)

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
