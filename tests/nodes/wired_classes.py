"""Node classes that take and give a MODEL or a VAE, as a server describes them, and how to wire one with defaults."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sfpp_client import ComfyClient
from tests.nodes.graphs import Graph, Link
from tests.nodes.wired import LORA, NOISY

ACTING: dict[str, dict[str, Any]] = {
    "LoraLoader": {"lora_name": LORA},
    "LoraLoaderBypass": {"lora_name": LORA},
    "LoraLoaderBypassModelOnly": {"lora_name": LORA},
    "LoraLoaderModelOnly": {"lora_name": LORA},
    "ModelComputeDtype": {"dtype": "bf16"},
    "ModelMergeBlocks": {"input": 0.5, "middle": 0.5, "out": 0.5},
    "ModelMergeSimple": {"ratio": 0.5},
    "ModelMergeWAN2_1": {"blocks.0.": 0.5},
    "TrainLoraNode": {"steps": 1, "rank": 1},
}
"""Widgets with which a class does something, where its defaults do nothing."""


def source(graph: Graph, kind: str) -> Link | None:
    """A small thing of a type that links carry; None: there is none."""
    tiny = {"CLIP": 1, "VAE": 2}
    if kind in tiny:
        return [graph.add("SFPPLoadTiny"), tiny[kind]]
    made: dict[str, Callable[[], tuple[str, dict[str, Any]]]] = {
        "MODEL": lambda: ("UNETLoader", {"unet_name": NOISY, "weight_dtype": "default"}),
        "CONDITIONING": lambda: ("CLIPTextEncode", {"clip": [graph.add("SFPPLoadTiny"), 1], "text": "A red ball."}),
        "LATENT": lambda: ("EmptyHunyuanLatentVideo", {"width": 64, "height": 64, "length": 9, "batch_size": 1}),
        "IMAGE": lambda: ("EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0x3366CC}),
        "MASK": lambda: ("SolidMask", {"value": 1.0, "width": 64, "height": 64}),
        "AUDIO": lambda: ("EmptyAudio", {"duration": 1.0, "sample_rate": 44100, "channels": 2}),
        "LATENT_OPERATION": lambda: ("LatentOperationTonemapReinhard", {"multiplier": 1.0}),
        "LORA_MODEL": lambda: ("WiredLoraSource", {"lora_name": LORA}),
    }
    if kind not in made:
        return None
    class_type, inputs = made[kind]()
    return [graph.add(class_type, **inputs), 0]


@dataclass(frozen=True, kw_only=True)
class NodeClass:
    """A node class that takes and gives a MODEL or a VAE, as the server describes it."""

    name: str
    description: dict[str, Any]
    kind: str
    """"MODEL" or "VAE"."""

    def required(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """Name, type (or the choices) and options of each input that must be there."""
        for name, spec in self.description["input"].get("required", {}).items():
            yield name, spec[0], spec[1] if len(spec) > 1 else {}

    def wire(self, graph: Graph, link: Link) -> Link:
        """Put it behind a link. Raises LookupError naming an input that there is nothing for."""
        inputs: dict[str, Any] = {}
        for name, kind, options in self.required():
            if kind == self.kind and link not in inputs.values():
                inputs[name] = link
            else:
                inputs[name] = self._given(graph, name, kind, options)
        return [graph.add(self.name, **inputs), self.description["output"].index(self.kind)]

    def _given(self, graph: Graph, name: str, kind: Any, options: dict[str, Any]) -> Any:
        if name in ACTING.get(self.name, {}):
            return ACTING[self.name][name]
        choices = kind if isinstance(kind, list) else options.get("options")
        if choices is not None:
            if not choices:
                raise LookupError(f"{name} has nothing to choose from")
            first = choices[0]
            return options.get("default", first["key"] if isinstance(first, dict) else first)
        if kind in ("INT", "FLOAT", "BOOLEAN", "STRING"):
            nothing = {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False, "STRING": ""}[kind]
            return options.get("default", options.get("min", nothing))
        if (made := source(graph, kind)) is None:
            raise LookupError(f"{name} is a {kind}, and there is no source of these")
        return made

    def why_not(self) -> str | None:
        """Why it cannot be run; None if it can."""
        try:
            self.wire(Graph(), ["0", 0])
        except LookupError as missing:
            return str(missing)
        return None


def node_classes(client: ComfyClient) -> dict[str, NodeClass]:
    """Every class of the server that takes and gives a MODEL or a VAE, by name."""
    found = {}
    for name, description in sorted(client.object_info().items()):
        for kind in ("MODEL", "VAE"):
            node = NodeClass(name=name, description=description, kind=kind)
            takes = any(given == kind for _, given, _ in node.required())
            if takes and kind in description["output"] and not name.startswith("SFPP"):
                found[name] = node
    return found
