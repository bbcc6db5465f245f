"""The nodes' surface is a contract: shared workflows store ids, and widget values by position.

After a deliberate change, write the new one with `python -m tests.nodes.test_nodes_schema OBJECT_INFO.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

FROZEN = Path(__file__).with_name("node_schemas.json")
LIMITS = ("default", "min", "max", "step", "round", "multiline")


def surface(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """What may not change of every node of the pack: inputs in order, with types and defaults, and outputs."""
    nodes = {name: node for name, node in sorted(object_info.items()) if name.startswith("SFPP")}
    return {
        name: {
            "inputs": [_input(name, *item) for group in ("required", "optional") for item in _inputs(node, group)],
            "outputs": [list(pair) for pair in zip(node["output"], node["output_name"], strict=True)],
            "is_output": node["output_node"],
        }
        for name, node in nodes.items()
    }


def _inputs(node: Mapping[str, Any], group: str) -> list[tuple[str, list[Any], bool]]:
    order = node["input_order"].get(group, [])
    return [(name, node["input"][group][name], group == "optional") for name in order]


def _input(node: str, name: str, specification: list[Any], optional: bool) -> dict[str, Any]:
    kind, *rest = specification
    options = rest[0] if rest else {}
    known = {key: options[key] for key in LIMITS if key in options}
    # Lists of files differ from one installation to the next; what a fixed list holds is part of the contract.
    choices = kind if isinstance(kind, list) else options.get("options")
    if choices is not None and (node, name) not in {("SFPPLoadModel", "model_name"), ("SFPPLoadState", "state_file")}:
        known["choices"] = choices
    return {"name": name, "type": "COMBO" if isinstance(kind, list) else kind, "optional": optional} | known


def test_the_surface_is_what_shared_workflows_rely_on(comfy):
    assert surface(comfy.client.object_info()) == json.loads(FROZEN.read_text(encoding="utf-8"))


def test_every_input_and_output_explains_itself(comfy):
    nodes = {name: node for name, node in comfy.client.object_info().items() if name.startswith("SFPP")}
    assert nodes
    for name, node in nodes.items():
        assert node["description"] and node["display_name"].startswith("SFPP "), name
        for group in ("required", "optional"):
            for widget, specification, _ in _inputs(node, group):
                assert len(specification[1].get("tooltip", "")) > 20, f"{name}.{widget} has no tooltip"
        assert len(node.get("output_tooltips") or ()) == len(node["output"]), name
        assert all(node.get("output_tooltips") or ()), name
        assert not set(node["output_name"]) & set(node["output"]), f"{name} shows a type for a name"


def test_nodes_are_found_by_other_words(comfy):
    """Where the page's search knows such words; ComfyUI 0.3.75 has no place for them."""
    info = comfy.client.object_info()
    knows = any("search_aliases" in node for node in info.values())
    found = {name: node.get("search_aliases") for name, node in info.items() if name.startswith("SFPP")}
    assert all(bool(aliases) == knows for aliases in found.values()), found


@pytest.mark.parametrize("numbers", ("INT", "FLOAT"))
def test_numbers_keep_their_digits_on_the_page(comfy, numbers: str):
    """Without step and round the page turns 0.25 into 0.3 when it loads a workflow in API format."""
    found = [
        widget
        for node in surface(comfy.client.object_info()).values()
        for widget in node["inputs"]
        if widget["type"] == numbers
    ]
    assert found
    for widget in found:
        assert "min" in widget and "max" in widget, widget
        assert numbers == "INT" or {"step", "round"} <= widget.keys(), widget


if __name__ == "__main__":
    information = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    FROZEN.write_text(json.dumps(surface(information), indent=1) + "\n", encoding="utf-8")
