"""ComfyUI's AUDIO, or the sound of a clip that goes on, as the sound of a film."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, TypedDict

import av
from comfy_api.latest import InputImpl
from torch import Tensor

from ...sfpp_core.video.codecs import Sound
from ...sfpp_core.video.recording import NOTICED_SECONDS, Recording, has_sound, read_recording
from ...sfpp_core.wan.config import FRAMES_PER_SECOND
from .continued import ContinuedClip
from .footage import file_of, trim_of
from .report import Report


class Audio(TypedDict):
    """What travels between nodes as AUDIO: waveform [B, channels, samples]."""

    waveform: Tensor
    sample_rate: int


def film_sound(audio: Audio | None, before: ContinuedClip | None, seconds: float, report: Report) -> Sound | None:
    """What is heard in a film of so many seconds: the AUDIO, or else the clip's own sound while the clip is seen.

    The report says what of them is not heard. Raises ValueError as `sound_of`.
    """
    if audio is None:
        return None if before is None else _sound_of_clip(before, report)
    sound = sound_of(audio)
    if (heard := sound.samples.shape[-1] / sound.rate) > seconds + NOTICED_SECONDS:
        report.add(f"audio lasts {heard:.2f} s and the video {seconds:.2f} s: what is longer of audio is cut off.")
    if before is not None and _is_heard(before.video):
        report.add(
            "The clip in before has sound of its own, which is dropped because audio is wired. Take audio off to keep "
            "it, or mix the two before."
        )
    return sound


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


def _sound_of_clip(clip: ContinuedClip, report: Report) -> Sound | None:
    """As long as its pictures; None if it has none, or none that can be used, which is no reason not to make a film."""
    try:
        recording = _recording_of(clip)
    except ValueError as error:
        report.add(f"The sound of the clip in before is left out: {error}")
        return None
    if recording is None:
        return None
    if not recording.is_whole:
        report.add(
            "The sound of the clip in before could not be decoded, and the video has none. Wire audio for another one."
            if recording.sound is None
            else "Parts of the sound of the clip in before could not be decoded; there the video is silent."
        )
    if recording.goes_on:
        report.add("The sound of the clip in before is longer than its pictures; what is longer is cut off.")
    return recording.sound


def _recording_of(clip: ContinuedClip) -> Recording | None:
    """Raises ValueError with a text that says why a sound cannot be used."""
    seconds = clip.num_frames / FRAMES_PER_SECOND
    if isinstance(clip.video, InputImpl.VideoFromComponents):
        audio = clip.video.get_components().audio
        if audio is None:
            return None
        whole = sound_of(audio)
        sound = Sound(samples=whole.samples[:, : round(seconds * whole.rate)], rate=whole.rate)
        goes_on = whole.samples.shape[1] / whole.rate > seconds + NOTICED_SECONDS
        return Recording(sound=sound, is_whole=True, goes_on=goes_on)
    start, length = trim_of(clip.video)
    with file_of(clip.video) as path:
        recording = read_recording(path, start, seconds)
    if recording is None or not length:
        return recording
    # What lies behind the span of a trimmed clip was cut off by the artist.
    return Recording(sound=recording.sound, is_whole=recording.is_whole, goes_on=False)


def _is_heard(video: Any) -> bool:
    """Whether a VIDEO has sound."""
    if isinstance(video, InputImpl.VideoFromComponents):
        return video.get_components().audio is not None
    with suppress(av.FFmpegError), file_of(video) as path:
        return has_sound(path)
    return False
