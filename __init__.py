"""Self-Forcing++ for ComfyUI: minute-long video from a causal few-step Wan 2.1 model, chunk by chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """Where ComfyUI starts the pack. Imports happen here: tests and training import the root without ComfyUI."""
    import logging

    try:
        from .nodes import SelfForcingExtension
    except Exception:
        # ComfyUI reports one line of a failed entry point; the traceback is what a bug report needs.
        logging.getLogger(__name__).exception("Self-Forcing++ could not be loaded")
        raise
    return SelfForcingExtension()
