"""Makes a video with the built-in model family through a real headless ComfyUI.

Run through ``scripts/demo``, which sets everything up first.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import av
import torch
from tqdm import tqdm

from sfpp_client import ComfyClient, ComfyError, Event, Progress
from sfpp_client.command_line import print_whatever_can_be_shown, require_writable, stop_in_order_on_signals
from sfpp_client.workflow import Workflow, load_workflow, with_inputs
from tools.comfy_server import ROOT, ComfyServer, ServerConfig, ServerError

WORKFLOW = ROOT / "workflows" / "api" / "tiny_text_to_long_video.json"

_SAMPLER = "SFPPSampler"
"""The node class whose progress bar stands for seconds of video; it decodes and writes what it makes."""

# Far beyond what a laptop takes per second of video; only a server that hangs gets here.
_TIMEOUT_PER_SECOND_S = 60.0
_TIMEOUT_BASE_S = 600.0


class VideoProgress:
    """Shows how much of the video is made, in seconds of video."""

    def __init__(self, workflow: Workflow, seconds: float) -> None:
        self._nodes = {node_id for node_id, node in workflow.items() if node["class_type"] == _SAMPLER}
        self._seconds = seconds
        self._bar: tqdm | None = None

    def __call__(self, event: Event) -> None:
        """Take an event of the run."""
        if not isinstance(event, Progress) or event.node_id not in self._nodes:
            return
        if self._bar is None:
            self._bar = self._begun()
        self._bar.update(self._seconds * event.value / event.maximum - self._bar.n)

    def close(self) -> None:
        """End the bar, if there is one."""
        if self._bar is not None:
            self._bar.close()

    def _begun(self) -> tqdm:
        return tqdm(
            desc="making",
            total=self._seconds,
            bar_format="{desc}: {n:.1f} of {total:.1f} s of video |{bar}| {elapsed} passed, {remaining} left",
            # A terminal redraws one line; in a log file each update is a line of its own.
            mininterval=0.2 if sys.stderr.isatty() else 15.0,
        )


def main() -> int:
    """Command line of the demo."""
    arguments = parse_arguments()
    stop_in_order_on_signals()
    print_whatever_can_be_shown()
    try:
        video = make_video(arguments)
    except (ServerError, ComfyError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 130
    print(video)
    return 0


def make_video(arguments: argparse.Namespace) -> str:
    """Start ComfyUI, run the workflow, fetch the video; return a line that says what and where it is."""
    workflow = _fill_in(load_workflow(WORKFLOW), arguments)
    require_writable(arguments.out)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sfpp-demo-", ignore_cleanup_errors=True) as folder:
        print("demo: starting ComfyUI", flush=True)
        config = ServerConfig(base_directory=Path(folder), cpu=not torch.accelerator.is_available())
        with ComfyServer(config) as server:
            try:
                path = _run_and_fetch(ComfyClient(server.url), workflow, arguments)
            except ComfyError as error:
                # The log goes with its folder.
                raise ComfyError(f"{error}\nThe end of ComfyUI's log:\n{server.log_tail()}") from error
    return f"demo: {path.absolute()} ({_describe(path)}), in {time.monotonic() - started:.0f} s"


def _run_and_fetch(client: ComfyClient, workflow: Workflow, arguments: argparse.Namespace) -> Path:
    """Run the workflow with its progress shown and copy its video into the folder that was asked for."""
    progress = VideoProgress(workflow, arguments.seconds)
    try:
        timeout_s = _TIMEOUT_BASE_S + _TIMEOUT_PER_SECOND_S * arguments.seconds
        result = client.run(workflow, on_event=progress, timeout_s=timeout_s)
    finally:
        progress.close()
    videos = [file for file in result.files() if file.filename.endswith(".mp4")]
    if len(videos) != 1:
        raise ComfyError(f"the workflow made {len(videos)} videos; one was expected")
    # Every server counts its files from 1 in its own folder; here videos of many runs come together.
    name = f"{time.strftime('%Y%m%d-%H%M%S')}_{Path(videos[0].filename).name}"
    return client.download(videos[0], arguments.out, name=name)


def _fill_in(workflow: Workflow, arguments: argparse.Namespace) -> Workflow:
    """The workflow with what the command line says; what it leaves open stays as the workflow has it."""
    settings = {"seconds": arguments.seconds, "seed": arguments.seed}
    workflow = with_inputs(workflow, "SFPPSampler", **{k: v for k, v in settings.items() if v is not None})
    if arguments.prompt is not None:
        workflow = with_inputs(workflow, "CLIPTextEncode", text=arguments.prompt)
    return workflow


def _describe(path: Path) -> str:
    """Return what is in a video file: its length, frames and size."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        seconds = stream.frames / stream.average_rate
        return f"{float(seconds):.1f} s, {stream.frames} frames, {stream.width}x{stream.height}"


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for; leaves the program with a message if that cannot be."""
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Makes a video with the built-in model through a real headless ComfyUI and says where the MP4 is.",
    )
    parser.add_argument("--seconds", type=_seconds, default=60.0, help="length of the video (default: 60)")
    parser.add_argument("--prompt", help="what the video shows (default: the workflow's prompt)")
    parser.add_argument("--seed", type=int, help="which of all such videos (default: the workflow's seed)")
    parser.add_argument("--out", type=Path, default=Path("output"), help="folder for the video (default: output)")
    return parser.parse_args(words)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not (math.isfinite(seconds) and seconds > 0):
        raise argparse.ArgumentTypeError(f"{text} is no length; give seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
