"""Metrics of a run: TensorBoard scalars, contact sheets, videos as MP4 beside them, and their copy in wandb."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, TracebackType

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from sfpp_core.files import replacing
from sfpp_core.video.writer import VideoWriter
from sfpp_core.wan.config import FRAMES_PER_SECOND

from ..config import ConfigError, RunConfig
from .distributed import DistContext

ID_NAME = "wandb_id.txt"
"""In the log's folder: what makes its run one of its own, whatever other folders are called."""


def require_mirror(run: RunConfig) -> None:
    """Raise ConfigError if a run's log is to be copied and what copies it is not installed."""
    if run.wandb is not None:
        _wandb()


def mirror(project: str, folder: Path) -> None:
    """Copy what a TensorBoard in `folder` is told to Weights & Biases as well, as one run named after the folder's."""
    # It would write its own files to the system's temporary folder if there were no such one.
    folder.mkdir(parents=True, exist_ok=True)
    name = folder.resolve().parent.name
    _wandb().init(project=project, name=name, id=_id(folder), resume="allow", dir=folder, sync_tensorboard=True)


def _id(folder: Path) -> str:
    """Made up once: a run that goes on after a stop is the same run there too."""
    path = folder / ID_NAME
    if not path.is_file():
        with replacing(path) as unfinished:
            unfinished.write_text(uuid.uuid4().hex, encoding="utf-8")
    return path.read_text(encoding="utf-8")


def _wandb() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "run.wandb names a project, but Weights & Biases is not installed; pip install wandb, or write "
            "run.wandb=null."
        ) from error
    return wandb


def contact_sheet(videos: Tensor, *, columns: int = 9) -> Tensor:
    """One row a video, `columns` frames of each from first to last, [3, H', W'] in [0, 1].

    videos: B 3 F H W in [-1, 1].
    """
    frames = torch.linspace(0, videos.shape[2] - 1, min(columns, videos.shape[2])).round().long()
    sheet = rearrange(videos[:, :, frames].float(), "b c f h w -> c (b h) (f w)")
    return (sheet / 2 + 0.5).clamp(0, 1)


def to_bytes(pixels: Tensor) -> Tensor:
    """[0, 1] to uint8."""
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


def save_picture(picture: Tensor, path: Path) -> None:
    """Write [3, H, W] in [0, 1] as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rearrange(to_bytes(picture), "c h w -> h w c").numpy()).save(path)


def save_video(videos: Tensor, path: Path) -> None:
    """Write videos, B 3 F H W in [-1, 1], side by side as one MP4."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = rearrange(videos.float() / 2 + 0.5, "b c f h w -> f h (b w) c").clamp(0, 1)
    # Colours are converted by matrix products, which autocast would round to half precision.
    with torch.autocast("cpu", enabled=False):
        with VideoWriter(path, width=frames.shape[2], height=frames.shape[1], fps=FRAMES_PER_SECOND) as writer:
            writer.write(frames)


def open_metrics(run: RunConfig, *, step: int) -> MetricsLogger:
    """Open the log of a run that goes on after `step`: its folder's in the main process, a blank one in the others."""
    if not DistContext.current().is_main:
        return NoMetrics()
    folder = Path(run.out) / "board"
    if run.wandb is not None:
        mirror(run.wandb, folder)
    return MetricsLogger(folder, step=step)


class MetricsLogger:
    """A run's TensorBoard log, and its pictures and videos as files in the same folder."""

    def __init__(self, folder: Path, *, step: int) -> None:
        """step: what an earlier piece of the run logged after this step, or at all if it is 0, is dropped."""
        self._folder = folder
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else 0)

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def videos(self, name: str, videos: Tensor, step: int) -> None:
        """Show videos, B 3 F H W in [-1, 1]: a contact sheet in the log and as PNG, and an MP4."""
        sheet = contact_sheet(videos)
        self._writer.add_image(name, sheet, step)
        save_picture(sheet, self._folder / f"{name}_{step:06d}.png")
        save_video(videos, self._folder / f"{name}_{step:06d}.mp4")


class NoMetrics(MetricsLogger):
    """Shows nothing."""

    def __init__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        pass

    def videos(self, name: str, videos: Tensor, step: int) -> None:
        pass
