"""Workflows of an earlier version of the pack, with settings other than the defaults, make the videos that they made.

Those in data/a493ef0 were saved by ComfyUI's page over that commit; the latents beside them are what it made of them.
test_page.py opens the page's files.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Studio
from tests.nodes.test_earlier_states import OTHER_PROCESSORS

DATA = Path(__file__).parent / "data" / "a493ef0"
KEPT = {"extend_with_second_prompt": ["5", 1], "prompt_schedule": ["3", 0]}
"""The LATENT that was kept of each."""
KEEPS = "900"


@pytest.mark.parametrize("name", KEPT)
def test_its_video_is_the_same(comfy: Comfy, name: str):
    workflow = json.loads((DATA / f"{name}_api.json").read_text(encoding="utf-8"))
    keeping = {"class_type": "SaveLatent", "inputs": {"samples": KEPT[name], "filename_prefix": "latents/earlier"}}
    studio = Studio(comfy)
    latent = studio.latent(studio.run(workflow | {KEEPS: keeping}), KEEPS)
    expected = load_file(DATA / f"{name}.safetensors")["latent"]
    assert latent.shape == expected.shape
    torch.testing.assert_close(latent, expected, atol=OTHER_PROCESSORS, rtol=0)
