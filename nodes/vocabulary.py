"""Names that several nodes share. Ids and types live in shared workflows and never change."""

from __future__ import annotations

import inspect

from comfy_api.latest import io

CATEGORY = "SelfForcing++"

FilmState = io.Custom("SFPP_STATE")
"""Everything that decides how a film goes on: a sfpp_core RolloutState."""

FilmReport = io.Custom("SFPP_STABILITY")
"""Whether a film holds up, and where it does not: a sfpp_core StabilityReport."""

Clip = io.Custom("SFPP_CLIP")
"""A clip that a film continues: a ContinuedClip."""


def search_aliases(*words: str) -> dict[str, list[str]]:
    """Further words that the page's node search finds a node by, as arguments of Schema; none before ComfyUI 0.8."""
    known = inspect.signature(io.Schema).parameters
    return {"search_aliases": list(words)} if "search_aliases" in known else {}
