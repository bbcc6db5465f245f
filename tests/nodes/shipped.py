"""The workflows that come with the pack, and how tests make their videos short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sfpp_client.workflow import Workflow, load_workflow
from tools.comfy_server import ROOT

PAGE = ROOT / "workflows"
API = PAGE / "api"
NAMES = sorted(path.stem for path in API.glob("*.json"))
TINY = [name for name in NAMES if name.startswith("tiny_")]

SHORT = {"SFPPSampler": 1.3, "SFPPExtend": 0.7}
"""Seconds: two chunks to begin with, one to go on."""
NUM_CHUNKS = {"SFPPSampler": 2, "SFPPExtend": 1}

FRAMES = {
    "tiny_branch_three_endings": [21 + 12] * 3,
    "tiny_continue_video": [21, 21 + 24],
    "tiny_extend_with_second_prompt": [21 + 12],
    "tiny_film_with_stability_report": [21],
    "tiny_image_to_video": [1 + 24],
    "tiny_prompt_schedule": [21],
    "tiny_text_to_long_video": [21],
}
"""Lengths of the videos when every node that makes some is asked for SHORT."""


def page_path(name: str) -> Path:
    return PAGE / f"{name}.json"


def read_page(name: str) -> dict[str, Any]:
    return json.loads(page_path(name).read_text(encoding="utf-8"))


def read_api(name: str) -> Workflow:
    return load_workflow(API / f"{name}.json")


def short_inputs(workflow: Workflow, *, seed: int) -> dict[str, dict[str, Any]]:
    """What to set at which node for SHORT videos; with its own seed, ComfyUI finds nothing of them in its cache."""
    found: dict[str, dict[str, Any]] = {}
    for node_id, node in workflow.items():
        if node["class_type"] in SHORT:
            found[node_id] = {"seconds": SHORT[node["class_type"]]}
            if "seed" in node["inputs"]:
                found[node_id]["seed"] = seed
    return found


def shortened(name: str, *, seed: int) -> Workflow:
    """The workflow with `short_inputs`."""
    workflow = read_api(name)
    changes = short_inputs(workflow, seed=seed)
    return {
        node_id: {**node, "inputs": {**node["inputs"], **changes.get(node_id, {})}}
        for node_id, node in workflow.items()
    }
