"""The table of presets, and which published file names stand for which."""

from __future__ import annotations

from pathlib import Path

import pytest

from sfpp_core.checkpoint import PRESETS, match_preset

PUBLISHED = {
    "self_forcing_dmd.pt": "Self-Forcing",
    "self_forcing_sid.pt": "Self-Forcing",
    "self_forcing_dmd.sft": "Self-Forcing",
    "ode_init.pt": "Self-Forcing",
    "Wan2.1-T2V-1.3B-Self-Forcing-DMD-FP16.safetensors": "Self-Forcing",
    "longlive_base.pt": "LongLive 1",
    "longlive_init.pt": "LongLive 1",
    "LongLive-1.3B/models/longlive_base.pt": "LongLive 1",
    "rolling_forcing_dmd.pt": "Rolling Forcing",
    "chunkwise/longvideo.pt": "Causal-Forcing long",
    "longvideo.pt": "Causal-Forcing long",
    "chunkwise/causal_forcing.pt": "Causal-Forcing chunk-wise",
    "chunkwise/causal_ode.pt": "Causal-Forcing chunk-wise",
    "chunkwise/causal_cd.pt": "Causal-Forcing chunk-wise",
    "causal_forcing_chunkwise_bf16.safetensors": "Causal-Forcing chunk-wise",
    "framewise/causal_forcing.pt": "Causal-Forcing frame-wise, 4 steps",
    "framewise/causal_cd.pt": "Causal-Forcing frame-wise, 4 steps",
    "causal-forcing++/framewise-2step.pt": "Causal-Forcing frame-wise, 2 steps",
    "framewise-1step.pt": "Causal-Forcing frame-wise, 1 step",
    "krea-realtime-video-14b.safetensors": "Krea Realtime 14B",
    "krea-realtime-video/transformer": "Krea Realtime 14B",
}
UNKNOWN = [
    "wan2.1_t2v_1.3B_fp16.safetensors",
    "wan2.1_t2v_14B_bf16.safetensors",
    "causal_forcing.pt",
    "chunkwise/ar_diffusion.pt",
    "LongLive-2.0-5B/model_bf16.pt",
    "longlive2_bf16.safetensors",
    "model.pt",
]


@pytest.mark.parametrize(("file_name", "name"), PUBLISHED.items())
def test_published_names_are_known_wherever_the_file_lies(file_name: str, name: str) -> None:
    for written in (file_name, Path("/models/diffusion_models") / file_name):
        preset = match_preset(written)
        assert preset is not None
        assert preset.name == name


@pytest.mark.parametrize("file_name", UNKNOWN)
def test_names_that_do_not_tell_give_no_preset(file_name: str) -> None:
    assert match_preset(file_name) is None


def test_the_files_own_name_counts_more_than_its_folders() -> None:
    preset = match_preset("longlive/framewise/rolling_forcing_dmd.pt")
    assert preset is not None
    assert preset.name == "Rolling Forcing"


def test_every_preset_is_reached_by_some_published_name() -> None:
    assert set(PUBLISHED.values()) == set(PRESETS)


FROZEN = {
    "Self-Forcing": (3, 21, 0, (1000, 750, 500, 250)),
    "LongLive 1": (3, 12, 3, (1000, 750, 500, 250)),
    "Rolling Forcing": (3, 21, 3, (1000, 800, 600, 400, 200)),
    "Causal-Forcing long": (3, 21, 3, (1000, 750, 500, 250)),
    "Causal-Forcing chunk-wise": (3, 21, 0, (1000, 750, 500, 250)),
    "Causal-Forcing frame-wise, 4 steps": (1, 21, 0, (1000, 750, 500, 250)),
    "Causal-Forcing frame-wise, 2 steps": (1, 21, 0, (1000, 500)),
    "Causal-Forcing frame-wise, 1 step": (1, 21, 0, (1000,)),
    "Krea Realtime 14B": (3, 6, 0, (1000, 750, 500, 250)),
}


def test_the_table_is_frozen_because_workflows_name_its_rows() -> None:
    read = {name: (p.rollout.chunk, p.rollout.window, p.rollout.sink, p.rollout.steps) for name, p in PRESETS.items()}
    assert read == FROZEN
    assert {preset.rollout.shift for preset in PRESETS.values()} == {5.0}
    assert {preset.rollout.context_noise for preset in PRESETS.values()} == {0.0}


def test_every_preset_names_a_repository_a_commit_and_a_file() -> None:
    for name, preset in PRESETS.items():
        assert preset.name == name
        assert "/" in preset.source and ".yaml" in preset.source


def test_kreas_steps_are_the_warped_ones_its_configuration_lists() -> None:
    # self_forcing_server_14b.yaml writes timesteps after the shift, as integers: 1000, 937, 833, 625.
    assert [int(step) for step in PRESETS["Krea Realtime 14B"].rollout.timesteps] == [1000, 937, 833, 625]


def test_the_documentation_has_the_same_table() -> None:
    text = (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    documented = {row[0]: row[1:5] for row in rows if row[0] in FROZEN and len(row) == 6}
    assert documented == {
        name: [str(chunk), str(window), str(sink), ", ".join(str(step) for step in steps)]
        for name, (chunk, window, sink, steps) in FROZEN.items()
    }
