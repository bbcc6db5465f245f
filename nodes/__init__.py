"""The nodes, one file a family: each translates widgets and wires for `sfpp_core`.

This package and `comfy` below it are the only places that know ComfyUI.
"""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .load import SFPPLoadModel, SFPPLoadTiny
from .prompt_schedule import SFPPPromptAt, SFPPPromptSchedule
from .sampler import SFPPExtend, SFPPSampler
from .stability import SFPPStabilityReport, SFPPVisualStability
from .state import SFPPLoadState, SFPPSaveState
from .video import SFPPContinueVideo, SFPPDecodeToVideo

NODES: tuple[type[io.ComfyNode], ...] = (
    SFPPLoadModel,
    SFPPLoadTiny,
    SFPPContinueVideo,
    SFPPSampler,
    SFPPExtend,
    SFPPPromptSchedule,
    SFPPPromptAt,
    SFPPSaveState,
    SFPPLoadState,
    SFPPDecodeToVideo,
    SFPPVisualStability,
    SFPPStabilityReport,
)


class SelfForcingExtension(ComfyExtension):
    """The pack, as ComfyUI asks for it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
