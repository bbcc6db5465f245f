"""What keeping finished chunks and showing the video cost: SFPP Sampler against a bare rollout, in one real ComfyUI.

    python -m benchmarks.overhead --pairs 7 --seconds 60
    python -m benchmarks.overhead --pairs 7 --seconds 10 --side 256

Pairs of videos of the built-in model, in turns of order; the ratio of each pair, and their median. A chunk of 64 pixels
takes it some 40 ms, in which no other model makes one; 256 pixels are nearer to what videos take.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from sfpp_client import ComfyClient, Message, Preview
from sfpp_core.rollout.config import RolloutConfig, video_length
from tools.comfy_server import PACK_FOLDER, ComfyServer, ServerConfig

from .bare_rollout_node import PACK_ENDING

BARE, SAMPLER = "BareRollout", "SFPPSampler"
PRESET = {"chunk": -1, "window": -1, "sink": -1, "steps": "preset", "shift": -1.0, "context_noise": -1.0}
PROMPT = "A red ball glides slowly to the left in the desert."


def main() -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a video")
    parser.add_argument("--side", type=int, default=64, help="width and height in pixels")
    parser.add_argument("--method", default="latent2rgb", help="ComfyUI's --preview-method")
    options = parser.parse_args()
    assert PACK_FOLDER.endswith(PACK_ENDING)
    with tempfile.TemporaryDirectory() as folder:
        nodes = Path(folder) / "custom_nodes"
        nodes.mkdir()
        shutil.copy(Path(__file__).with_name("bare_rollout_node.py"), nodes)
        with ComfyServer(ServerConfig(base_directory=Path(folder), preview_method=options.method)) as server:
            _compare(ComfyClient(server.url), options.pairs, options.seconds, options.side)
    return 0


def _compare(client: ComfyClient, pairs: int, seconds: float, side: int) -> None:
    for node in (BARE, SAMPLER):
        _seconds_of(client, node, seconds, side, seed=0)
    ratios = []
    for pair in range(1, pairs + 1):
        order = (BARE, SAMPLER) if pair % 2 else (SAMPLER, BARE)
        took = {node: _seconds_of(client, node, seconds, side, seed=pair) for node in order}
        ratios.append(took[SAMPLER][0] / took[BARE][0])
        print(
            f"pair {pair}: bare {took[BARE][0]:.2f} s, sampler {took[SAMPLER][0]:.2f} s with {took[SAMPLER][1]} "
            f"previews, ratio {ratios[-1]:.3f}"
        )
    print(f"median ratio {statistics.median(ratios):.3f} of {pairs} pairs, {seconds:g} s of {side}x{side} pixels each")


def _seconds_of(client: ComfyClient, node: str, seconds: float, side: int, *, seed: int) -> tuple[float, int]:
    """Return how long the node was at work, and how many previews came."""
    chunks = video_length(seconds, RolloutConfig(), made=0).num_chunks
    common = {"model": ["1", 0], "positive": ["2", 0], "seed": seed, "width": side, "height": side}
    own = {"chunks": chunks} if node == BARE else {"seconds": seconds, **PRESET}
    workflow = {
        "1": {"class_type": "SFPPLoadTiny", "inputs": {}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": PROMPT, "clip": ["1", 1]}},
        "3": {"class_type": node, "inputs": common | own},
        "4": {"class_type": "SaveLatent", "inputs": {"samples": ["3", 0], "filename_prefix": node}},
    }
    began, ended, previews = 0.0, 0.0, 0

    def watch(event: object) -> None:
        nonlocal began, ended, previews
        previews += isinstance(event, Preview)
        if isinstance(event, Message) and event.kind == "executing":
            if event.data.get("node") == "3":
                began = time.monotonic()
            elif event.data.get("node") == "4":
                ended = time.monotonic()

    client.run(workflow, on_event=watch, timeout_s=3600)
    return ended - began, previews


if __name__ == "__main__":
    raise SystemExit(main())
