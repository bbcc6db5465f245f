"""Compare with recordings of the public Self-Forcing code: `python -m tests.golden FILE...`.

Prints `FILE max_abs_error` a line; exits 1 if an error is above 2e-4 (float32), 2 if a file cannot be used.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import RolloutState
from sfpp_core.wan.config import infer_config
from sfpp_core.wan.transformer import WanTransformer

TOLERANCE = 2e-4


@dataclass(frozen=True)
class Recording:
    """A file's tensors and what its header says of them."""

    settings: dict[str, Any]
    tensors: dict[str, Tensor]

    @classmethod
    def open(cls, path: Path) -> Recording:
        """Read a recording. Raises ValueError if the header has no `golden` entry."""
        with safe_open(path, "pt") as file:
            golden = (file.metadata() or {}).get("golden")
            if golden is None:
                raise ValueError(f"{path} has no `golden` entry in its header; it is no recording.")
            return cls(json.loads(golden), {name: file.get_tensor(name) for name in file.keys()})

    def network(self) -> WanTransformer:
        """The recorded model."""
        weights = {name.removeprefix("model."): t for name, t in self.tensors.items() if name.startswith("model.")}
        shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
        network = WanTransformer(infer_config(shapes, num_heads=self.settings["model"]["num_heads"]))
        network.load_state_dict(weights)
        return network.eval()

    def text(self) -> Tensor:
        """Text embeddings, padded with zeros to the recorded model's length."""
        text = self.tensors["text"]
        return F.pad(text, (0, 0, 0, self.settings["model"]["text_len"] - text.shape[1]))

    def video(self, name: str) -> Tensor:
        """A tensor recorded frame first, in our layout."""
        return rearrange(self.tensors[name], "b t c h w -> b c t h w")


@dataclass
class RecordedNoise:
    """Hands out a recording's noise in the order in which it was drawn."""

    recording: Recording
    drawn_frames: int = 0
    drawn_renoise: int = 0

    def __call__(self, chunk: int, step: int, shape: tuple[int, ...]) -> Tensor:
        if step == 0:
            start, self.drawn_frames = self.drawn_frames, self.drawn_frames + shape[2]
            return self.recording.video("noise")[:, :, start : self.drawn_frames]
        noise = self.recording.tensors[f"renoise.{self.drawn_renoise:03d}"]
        self.drawn_renoise += 1
        return rearrange(noise, "(b t) c h w -> b c t h w", b=shape[0])


def _bidirectional_error(recording: Recording) -> float:
    tensors = recording.tensors
    flow = recording.network()(recording.video("x"), tensors["timestep"].float(), recording.text())
    return (flow - recording.video("flow")).abs().max().item()


def _causal_error(recording: Recording) -> float:
    settings, expected = recording.settings, recording.video("latents")
    config = RolloutConfig(
        chunk=settings["chunk"],
        # 0 stands for no limit.
        window=settings["window"] or max(expected.shape[2], settings["chunk"] + settings["sink"]),
        sink=settings["sink"],
        steps=tuple(settings["steps"]),
        shift=settings["shift"],
        independent_first=settings["independent_first"],
        context_noise=settings["context_noise"],
    )
    batch, channels, num_frames, height, width = expected.shape
    state = RolloutState(config=config, seed=0, model_id="golden", shape=(batch, channels, height, width))
    text = recording.text()
    if settings["initial"]:
        state = state.with_given(recording.video("initial"), text)
    rollout = Rollout(recording.network(), state, text, noise=RecordedNoise(recording))
    for _ in rollout.run(config.chunks_for(num_frames, made=state.num_frames)):
        pass
    return (rollout.state.latents - expected).abs().max().item()


@torch.inference_mode()
def max_abs_error(path: Path) -> float:
    """Largest absolute difference between the recorded result and ours."""
    recording = Recording.open(path)
    return _causal_error(recording) if "latents" in recording.tensors else _bidirectional_error(recording)


def main(arguments: list[str] | None = None) -> int:
    """Compare the files named on the command line; the exit status says how it went."""
    logging.basicConfig(format="%(message)s")
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    status = 0
    for path in parser.parse_args(arguments).files:
        try:
            error = max_abs_error(path)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as problem:
            logging.error("%s cannot be compared: %s", path, problem)
            status = 2
            continue
        sys.stdout.write(f"{path} {error:.3e}\n")
        # Not error > TOLERANCE: an error that is no number is too large as well.
        if not error <= TOLERANCE:
            status = max(status, 1)
    return status


if __name__ == "__main__":
    sys.exit(main())
