"""How the published families of causal students are meant to be sampled.

Nothing in the weights tells a causal student from plain Wan 2.1, nor its window and steps, so what their authors' own
inference configurations say is written down once, here, and matched by file name. Each source names the repository,
its commit and the file. `context_noise` is 0 in all of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import PurePath

from ..rollout.config import RolloutConfig

SELF_FORCING = RolloutConfig(chunk=3, window=21, sink=0, steps=(1000.0, 750.0, 500.0, 250.0), shift=5.0)
FRAME_WISE = replace(SELF_FORCING, chunk=1)
FEW_STEPS = replace(FRAME_WISE, first_chunk_steps=FRAME_WISE.steps)
JOINT = (
    "Its own sampler denoises several chunks at once, each one step noisier than the one before, and places the sink "
    "just before the window in time; here one chunk is denoised at a time and the sink stays at its own time."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """The rollout settings of one published family."""

    name: str
    """Unique; stored in workflows, so it is never changed."""
    rollout: RolloutConfig
    source: str
    """Where the settings are written down."""
    differs: str = ""
    """What the family's own sampler does that this one does not; empty if nothing is known."""


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="Self-Forcing",
            rollout=SELF_FORCING,
            source="guandeh17/Self-Forcing 33593df configs/self_forcing_dmd.yaml, wan/modules/causal_model.py",
        ),
        Preset(
            name="LongLive 1",
            rollout=replace(SELF_FORCING, window=12, sink=3),
            source="NVlabs/LongLive v1.0 e52d9ef configs/longlive_inference.yaml",
        ),
        Preset(
            name="Rolling Forcing",
            rollout=replace(SELF_FORCING, sink=3, steps=(1000.0, 800.0, 600.0, 400.0, 200.0)),
            source="TencentARC/RollingForcing a1477d0 configs/rolling_forcing_dmd.yaml, wan/modules/causal_model.py",
            differs=JOINT,
        ),
        Preset(
            name="Causal-Forcing long",
            rollout=replace(SELF_FORCING, sink=3),
            source="thu-ml/Causal-Forcing 1fc7bbc long_video/configs/rolling_forcing_dmd.yaml, "
            "long_video/wan/modules/causal_model.py",
            differs=JOINT,
        ),
        Preset(
            name="Causal-Forcing chunk-wise",
            rollout=SELF_FORCING,
            source="thu-ml/Causal-Forcing 1fc7bbc configs/causal_forcing_dmd_chunkwise.yaml",
        ),
        Preset(
            name="Causal-Forcing frame-wise, 4 steps",
            rollout=FRAME_WISE,
            source="thu-ml/Causal-Forcing 1fc7bbc configs/causal_forcing_dmd_framewise.yaml",
        ),
        Preset(
            name="Causal-Forcing frame-wise, 2 steps",
            rollout=replace(FEW_STEPS, steps=(1000.0, 500.0)),
            source="thu-ml/Causal-Forcing 1fc7bbc configs/causal_forcing_dmd_framewise_2step.yaml",
        ),
        Preset(
            name="Causal-Forcing frame-wise, 1 step",
            rollout=replace(FEW_STEPS, steps=(1000.0,)),
            source="thu-ml/Causal-Forcing 1fc7bbc configs/causal_forcing_dmd_framewise_1step.yaml",
        ),
        Preset(
            name="Krea Realtime 14B",
            rollout=replace(SELF_FORCING, window=6),
            source="krea-ai/realtime-video acf4b7b configs/self_forcing_server_14b.yaml, release_server.py",
            differs="Its own server recomputes the cache from the last three frames for every chunk, re-encodes the "
            "oldest of them as a first frame, and makes a fifth call at timestep 0.",
        ),
    )
}

FILE_NAMES: tuple[tuple[str, str], ...] = (
    (r"self forcing|^ode init$", "Self-Forcing"),
    (r"long ?live (?!2)|long ?live$", "LongLive 1"),
    (r"rolling forcing", "Rolling Forcing"),
    (r"^longvideo$|causal forcing long", "Causal-Forcing long"),
    (r"frame ?wise 2 ?step", "Causal-Forcing frame-wise, 2 steps"),
    (r"frame ?wise 1 ?step", "Causal-Forcing frame-wise, 1 step"),
    (r"frame ?wise causal (forcing|ode|cd)|causal forcing frame ?wise", "Causal-Forcing frame-wise, 4 steps"),
    (r"chunk ?wise causal (forcing|ode|cd)|causal forcing chunk ?wise", "Causal-Forcing chunk-wise"),
    (r"krea real ?time", "Krea Realtime 14B"),
)
"""Patterns of file names, in lower case with every run of other characters than letters and digits as one blank."""

FOLDERS_READ = 2
"""Parent folders that count as part of a name: both of Causal-Forcing's models are called causal_forcing.pt."""


def match_preset(file_name: str | PurePath) -> Preset | None:
    """The preset that a published file's name, with its folders where the name alone is not enough, stands for."""
    parts = PurePath(file_name).parts
    for length in range(1, min(len(parts), FOLDERS_READ + 1) + 1):
        name = _plain(parts[-length:])
        for pattern, preset in FILE_NAMES:
            if re.search(pattern, name):
                return PRESETS[preset]
    return None


def _plain(parts: tuple[str, ...]) -> str:
    *folders, file = parts
    return re.sub(r"[^a-z0-9]+", " ", " ".join((*folders, PurePath(file).stem)).lower()).strip()
