"""Writes locales/en from the nodes' own texts: what translators start from, and what translations are held against.

    python -m tools.locales [--server http://127.0.0.1:8188]

Translations are written by hand. Tests keep locales/en equal to what this writes, and every translation complete.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tools.comfy_server import ROOT
from tools.workflows.__main__ import object_info_of

FOLDER = ROOT / "locales"
OWN_PREFIX = "SFPP"


def own_nodes(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """The nodes of the pack, by id. Raises ValueError if the server has none of them."""
    found = {name: object_info[name] for name in sorted(object_info) if name.startswith(OWN_PREFIX)}
    if not found:
        raise ValueError("this ComfyUI has no nodes of the pack; name a server that has loaded it, or none")
    return found


def node_texts(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """Every text of every node, as ComfyUI's nodeDefs.json has them."""
    return {name: _texts(info) for name, info in own_nodes(object_info).items()}


def page_texts(object_info: Mapping[str, Any]) -> dict[str, Any]:
    """Texts that belong to no single node, as ComfyUI's main.json has them."""
    categories = sorted({info["category"] for info in own_nodes(object_info).values()})
    return {"nodeCategories": {category: category for category in categories}}


def _texts(info: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {
        name: {"name": name, "tooltip": info["input"][group][name][1]["tooltip"]}
        for group in ("required", "optional")
        for name in info["input_order"].get(group, [])
    }
    outputs = {
        str(index): {"name": name, "tooltip": tooltip}
        for index, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"] or (), strict=True))
    }
    return {
        "display_name": info["display_name"],
        "description": info["description"],
        **({"inputs": inputs} if inputs else {}),
        **({"outputs": outputs} if outputs else {}),
    }


def files(object_info: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Every file of locales/en with its text."""
    for name, texts in (("main", page_texts(object_info)), ("nodeDefs", node_texts(object_info))):
        yield FOLDER / "en" / f"{name}.json", json.dumps(texts, indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Write locales/en from the nodes' own texts.")
    parser.add_argument("--server", help="address of a ComfyUI that runs this version of the pack")
    object_info = object_info_of(parser.parse_args().server)
    try:
        texts = list(files(object_info))
    except ValueError as error:
        sys.exit(f"locales: {error}")
    for path, text in texts:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
