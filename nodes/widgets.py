"""The widgets that override a model's rollout settings, and what they make of them."""

from __future__ import annotations

import inspect
import math
import reprlib
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..sfpp_core.rollout.config import MOST_CHUNK, MOST_FRAMES, MOST_SHIFT, RolloutConfig
from ..sfpp_core.wan.config import WAN21

AS_PRESET = -1
"""In a number: leave it to the MODEL's preset."""
PRESET_WORD = "preset"
"""In the step list: leave it to the MODEL's preset."""


def rollout_inputs() -> list[io.Input]:
    """Widgets for the settings worth trying, all of them left to the preset; the rest is always the preset's."""
    return [
        io.Int.Input(
            "chunk",
            default=AS_PRESET,
            min=AS_PRESET,
            max=MOST_CHUNK,
            tooltip="Latent frames (4 frames each) denoised together. Use what the model was trained with: 3 for "
            "Self-Forcing, 1 for frame-wise models. -1: from the model's preset.",
        ),
        io.Int.Input(
            "window",
            default=AS_PRESET,
            min=AS_PRESET,
            max=MOST_FRAMES,
            tooltip="Latent frames the model sees at once, sink and current chunk included. More costs memory and "
            "time; beyond the training length (21) videos brighten and drift. -1: from the model's preset.",
        ),
        io.Int.Input(
            "sink",
            default=AS_PRESET,
            min=AS_PRESET,
            max=MOST_FRAMES,
            tooltip="First latent frames that stay in view for ever and hold the look of the video, at the price of "
            "motion. 0 in the Self-Forcing++ paper and for the built-in model, 3 for LongLive. -1: from the model's "
            "preset.",
        ),
        io.String.Input(
            "steps",
            default=PRESET_WORD,
            tooltip="Timesteps of each chunk, falling, from 1000 (noise) to above 0, before the shift: 1000, 750, 500, "
            "250. Fewer are faster and rougher; use what the model was trained with. The word preset: from the "
            "model's preset.",
        ),
        io.Float.Input(
            "shift",
            default=AS_PRESET,
            min=AS_PRESET,
            max=MOST_SHIFT,
            step=0.1,
            round=0.001,
            tooltip="Moves the steps towards noise: higher settles composition and motion, lower detail. 5 for "
            "Self-Forcing, 1 for none. A ModelSampling node has no effect here. -1: from the model's preset.",
        ),
        io.Float.Input(
            "context_noise",
            default=AS_PRESET,
            min=AS_PRESET,
            max=1000.0,
            step=1.0,
            round=0.001,
            tooltip="How noisy (0 to 1000) the model is told a finished chunk is when it remembers it. 0 says clean. "
            "Leave it unless the model's author says otherwise. -1: from the model's preset.",
        ),
    ]


def deliver_on_interrupt_input() -> io.Input:
    """The switch that says what an interrupt means."""
    return io.Boolean.Input(
        "deliver_on_interrupt",
        optional=True,  # workflows in API format that were shared before it existed
        default=False,
        label_on="deliver what is finished",
        label_off="stop",
        tooltip="What Interrupt does while this node works: stop the workflow, or pass on what is finished, so that it "
        "is decoded and saved. Either way finished chunks are kept on disk, and queuing the workflow again goes on "
        "from there.",
    )


def live_vae_input() -> io.Input:
    """The VAE that shows the video while it is made."""
    return io.Vae.Input(
        "vae",
        optional=True,
        tooltip="Wire the VAE here to see the video itself while it is made: the preview plays its latest seconds, and "
        "a file grows in the output folder (sfpp_spool) for any player. SFPP Decode To Video then has it already. "
        "Costs the memory of the VAE beside the model.",
    )


def rollout_settings(
    preset: RolloutConfig, *, chunk: int, window: int, sink: int, steps: str, shift: float, context_noise: float
) -> RolloutConfig:
    """The preset with what the widgets override. Raises ValueError naming the widget if the settings cannot work."""
    numbers = {"chunk": chunk, "window": window, "sink": sink, "shift": shift, "context_noise": context_noise}
    changes = {name: value for name, value in numbers.items() if value != AS_PRESET}
    if not is_preset(steps):
        # What is typed holds for every chunk, also where the preset gives the first one steps of its own.
        changes |= {"steps": parse_steps(steps), "first_chunk_steps": ()}
    return replace(preset, **changes)


def is_preset(steps: str) -> bool:
    """Return whether the list of steps is left to the MODEL's preset."""
    return steps.strip().lower() == PRESET_WORD


def parse_steps(text: str) -> tuple[float, ...]:
    """Numbers separated by commas or blanks. Raises ValueError naming what is no number, or that there is none."""
    words = text.replace(",", " ").split()
    if not words:
        raise ValueError(f"steps is empty. Type timesteps such as 1000, 750, 500, 250, or the word {PRESET_WORD}.")
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        raise ValueError(
            f"steps is {text!r}. Type numbers separated by commas, such as 1000, 750, 500, 250, or {PRESET_WORD}."
        ) from error


MAX_SIDE = 8192
"""Pixels. No model comes near it; a digit too many must not fill the memory."""


def side_input(name: str, tooltip: str, *, default: int, least: int = WAN21.size_multiple) -> io.Input:
    """A side of the video in pixels. tooltip: what follows "Width of the video in pixels, a multiple of 16."."""
    return io.Int.Input(
        name,
        default=default,
        min=least,
        max=MAX_SIDE,
        step=WAN21.size_multiple,
        tooltip=f"{name.capitalize()} of the video in pixels, a multiple of {WAN21.size_multiple}. {tooltip}",
    )


class CheckedNode(io.ComfyNode):
    """A node all of whose inputs are checked at queue time, before anything is loaded or sampled.

    ComfyUI before 0.8 does not look whether a choice is in its list. No version sees that a number is not finite, or
    that a constant stands where a link belongs, and all leave their own checks out where a node has some.
    """

    @classmethod
    def validate_inputs(cls, **inputs: Any) -> bool:
        """Raise ValueError, in a sentence, for what cannot work.

        Raised and not returned: ComfyUI repeats what is returned once for every input. What is wired in is None here,
        and a value of a wrong type ComfyUI has refused.
        """
        declared = {each.id: each for each in cls.define_schema().inputs}
        known = [(declared[name], value) for name, value in inputs.items() if name in declared and value is not None]
        for each, value in known:
            if not isinstance(each, io.WidgetInput):
                raise ValueError(
                    f"{each.id} is {reprlib.repr(value)}, but it has no widget: wire it from a node that makes "
                    f"{each.io_type}."
                )
            if isinstance(each, io.Combo.Input):
                require_choice(each.id, value, [getattr(option, "value", option) for option in each.options or ()])
        # Before the plain limits, because it knows what to type instead.
        cls.check(**inputs)
        for each, value in known:
            if isinstance(each, (io.Int.Input, io.Float.Input)) and isinstance(value, (int, float)):
                _require_within(each, value)
        return True

    @classmethod
    def check(cls, **inputs: Any) -> None:
        """Raise ValueError for what this node cannot work with, of the inputs that are not wired."""


def _require_within(declared: io.Int.Input | io.Float.Input, value: float) -> None:
    least = -math.inf if declared.min is None else declared.min
    most = math.inf if declared.max is None else declared.max
    if not math.isfinite(value) or not least <= value <= most:
        raise ValueError(f"{declared.id} is {value:g}; it must lie between {least:g} and {most:g}.")


def require_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise ValueError unless a widget's value is one of its choices."""
    if value not in choices:
        shown = ", ".join(map(str, choices)) if len(choices) <= MOST_SHOWN else f"the {len(choices)} in its list"
        raise ValueError(f"{name} is {reprlib.repr(value)}; it must be one of {shown or 'a list that is empty here'}.")


MOST_SHOWN = 20
"""Choices that a sentence names."""

CATEGORY = "SelfForcing++"

VideoState = io.Custom("SFPP_STATE")
"""Everything that decides how a video goes on: a sfpp_core RolloutState."""

VideoReport = io.Custom("SFPP_STABILITY")
"""Whether a video holds up, and where it does not: a sfpp_core StabilityReport."""

SourceVideo = io.Custom("SFPP_CLIP")
"""A video that another one continues: a ContinuedVideo."""


def search_aliases(*words: str) -> dict[str, list[str]]:
    """Further words that the page's node search finds a node by, as arguments of Schema; none before ComfyUI 0.8."""
    known = inspect.signature(io.Schema).parameters
    return {"search_aliases": list(words)} if "search_aliases" in known else {}
