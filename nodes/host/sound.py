"""ComfyUI's AUDIO as the sound of a film."""

from __future__ import annotations

from typing import TypedDict

from torch import Tensor

from ...sfpp_core.video.sound import Sound


class Audio(TypedDict):
    """What travels between nodes as AUDIO: waveform [B, channels, samples]."""

    waveform: Tensor
    sample_rate: int


def sound_of(audio: Audio) -> Sound:
    """The recording in an AUDIO. Raises ValueError if there are several, or as Sound does."""
    waveform = audio["waveform"]
    if waveform.ndim != 3 or waveform.shape[0] != 1:
        raise ValueError(
            f"audio has shape {tuple(waveform.shape)}; a film takes one recording, [1, channels, samples]. Choose one."
        )
    try:
        return Sound(samples=waveform[0], rate=int(audio["sample_rate"]))
    except ValueError as error:
        raise ValueError(f"audio cannot be used: {error}") from error
