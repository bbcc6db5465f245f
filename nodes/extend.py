"""SFPP Extend: continues a film."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..sfpp_core.rollout.config import film_length
from ..sfpp_core.rollout.memory import CacheStorage
from ..sfpp_core.rollout.prompt_schedule import Cue, Direction
from ..sfpp_core.rollout.state import RolloutState
from .cache_storage import AS_BEFORE, CACHE_STORAGES, continued_cache_storage_input
from .host import partial_deliveries
from .host.conditioning import direction_of
from .host.identity import model_identity
from .host.inactive import what_does_not_act
from .host.latents import to_latent
from .host.queued_graph import upstream_digest
from .host.report import Report
from .host.sampling import Wishes, sample_chunks
from .host.wired import wan_config
from .rollout_widgets import deliver_on_interrupt_input, live_vae_input
from .vocabulary import CATEGORY, FilmState, search_aliases


class Extend(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SFPPExtend",
            display_name="SFPP Extend",
            category=CATEGORY,
            **search_aliases("self forcing", "continue video", "longer", "branch", "long video"),
            description="Continues a film exactly as if it had been made in one go, or lets a new prompt rule from "
            "here on. The state that comes in stays as it is: branch from it as often as you like.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that began the film, with the same LoRAs at the same strengths."
                ),
                FilmState.Input(
                    "state", tooltip="Where the film stands: from SFPP Sampler, SFPP Extend or SFPP Load State."
                ),
                io.Float.Input(
                    "seconds",
                    default=5.0,
                    min=0.1,
                    max=3600.0,
                    step=0.5,
                    round=0.01,
                    tooltip="Length to add, in seconds at 16 frames a second. Rounded up to whole chunks (with chunk "
                    "3: multiples of 12 frames); the node says what it became.",
                ),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="A new prompt for what is added; the old one still shows until its frames have left the "
                    "window. Or an SFPP Prompt Schedule, whose times count from the beginning of the film. Not "
                    "connected: the film's last prompt goes on.",
                ),
                deliver_on_interrupt_input(),
                continued_cache_storage_input(),
                live_vae_input(),
            ],
            outputs=[
                io.Latent.Output(
                    "new_latent",
                    display_name="new latent",
                    tooltip="Only what was added. Decoded alone its first frame is taken for a still picture; decode "
                    "the whole latent for a seamless film.",
                ),
                io.Latent.Output("whole_latent", display_name="whole latent", tooltip="The film from its beginning."),
                FilmState.Output(
                    "new_state", display_name="state", tooltip="The longer film, for the next SFPP Extend."
                ),
            ],
            hidden=[io.Hidden.dynprompt],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> int:
        """As SFPP Sampler's."""
        del inputs
        return partial_deliveries.number()

    @classmethod
    def execute(
        cls,
        model: Any,
        state: RolloutState,
        seconds: float,
        positive: list[list[Any]] | None = None,
        deliver_on_interrupt: bool = False,
        cache_storage: str = AS_BEFORE,
        vae: Any = None,
    ) -> io.NodeOutput:
        text_dim = wan_config(model).text_dim
        state.require_model(str(model_identity(model)))
        if not state.chunks:
            raise ValueError("this state holds no film yet; start one with SFPP Sampler.")
        if positive is None:
            direction = Direction([Cue(text=state.texts[state.chunks[-1].text])])
        else:
            direction = direction_of(positive, text_dim)
        length = film_length(seconds, state.config, made=state.num_frames)
        report = Report()
        report.add(str(length))
        report.add_all(what_does_not_act(model, positive))
        storage = CACHE_STORAGES.get(cache_storage, CacheStorage(form=state.cache_form))
        wishes = Wishes(
            offloaded=storage.offloaded,
            deliver_on_interrupt=deliver_on_interrupt,
            upstream=upstream_digest(cls.hidden.dynprompt, "model"),
            vae=vae,
        )
        begun = state.with_cache_form(storage.form)
        longer, whole = sample_chunks(model, begun, direction, length.num_chunks, wishes, report)
        added = torch.cat([chunk.latents for chunk in longer.chunks[len(state.chunks) :]], dim=2)
        return io.NodeOutput(to_latent(model, added), whole, longer, ui=report.ui())
