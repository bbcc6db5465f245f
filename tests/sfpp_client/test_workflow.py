"""Workflows are read and set without guessing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sfpp_client.workflow import load_workflow, nodes_of_class, with_inputs

WORKFLOW = {
    "1": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["9", 0], "text": "a"}},
    "2": {"class_type": "SFPPSampler", "inputs": {"seconds": 5.0, "seed": 0}},
    "3": {"class_type": "SFPPSampler", "inputs": {"seconds": 5.0, "seed": 1}},
}


def test_setting_a_widget_leaves_the_original_as_it_is():
    before = json.dumps(WORKFLOW)
    changed = with_inputs(WORKFLOW, "CLIPTextEncode", text="b")
    assert changed["1"]["inputs"] == {"clip": ["9", 0], "text": "b"}
    assert json.dumps(WORKFLOW) == before


@pytest.mark.parametrize(
    ("class_type", "values", "message"),
    [
        ("CLIPTextEncode", {"txt": "b"}, "no input txt; it has clip, text"),
        ("SFPPSampler", {"seed": 2}, "2 nodes of class SFPPSampler"),
        ("SFPPExtend", {"seed": 2}, "0 nodes of class SFPPExtend"),
    ],
)
def test_what_cannot_be_set_is_said(class_type: str, values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        with_inputs(WORKFLOW, class_type, **values)


def test_nodes_of_class():
    assert nodes_of_class(WORKFLOW, "SFPPSampler") == ["2", "3"]


def test_read_from_file(tmp_path: Path):
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(WORKFLOW))
    assert load_workflow(path) == WORKFLOW


@pytest.mark.parametrize("content", [{"nodes": [], "links": [], "version": 0.4}, [1, 2]])
def test_workflow_saved_for_the_page_is_told_apart(tmp_path: Path, content: object):
    path = tmp_path / "page.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"Export \(API\)"):
        load_workflow(path)
