"""Names that several nodes share. Ids and types live in shared workflows and never change."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "SelfForcing++"

FilmState = io.Custom("SFPP_STATE")
"""Everything that decides how a film goes on: a sfpp_core RolloutState."""

FilmReport = io.Custom("SFPP_STABILITY")
"""Whether a film holds up, and where it does not: a sfpp_core StabilityReport."""

Clip = io.Custom("SFPP_CLIP")
"""A clip that a film continues: a ContinuedClip."""
