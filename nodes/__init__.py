"""What an artist sees: one file per concept, each node only translating widgets and wires for `sfpp_core`.

This package and `host` below it are the only places that know ComfyUI.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .load import LoadModel, LoadTiny
from .prompt_schedule import PromptAt, PromptSchedule
from .sampler import Extend, Sampler
from .stability import StabilityReport, VisualStability
from .state import LoadState, SaveState
from .video import ContinueVideo, DecodeToVideo

NODES: tuple[type[io.ComfyNode], ...] = (
    LoadModel,
    LoadTiny,
    ContinueVideo,
    Sampler,
    Extend,
    PromptSchedule,
    PromptAt,
    SaveState,
    LoadState,
    DecodeToVideo,
    VisualStability,
    StabilityReport,
)


class SelfForcingExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
