"""A judge that is quickly done, keeps a list of what it was asked, and may take its process with it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from sfpp_core.stability.score import JudgeError, Rating
from sfpp_core.video.span import VideoSpan


@dataclass(frozen=True, kw_only=True, slots=True)
class BrightnessJudge:
    """Rates by mean brightness: black 0, white 5."""

    asked: Path
    """A file that gets a line for each rating, before it is given: what a remote judge would have been paid for."""
    deadly: str = ""
    """The name of a video in whose second half the process is killed."""
    refused: str = ""
    """The name of a video that is not rated."""
    name: str = "brightness"

    def rate(self, video: VideoSpan, prompt: str) -> Rating:
        """See Judge."""
        if video.name == self.deadly and video.start >= video.whole.duration / 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if video.name == self.refused:
            raise JudgeError(f"{video.name} is not to my taste.")
        with self.asked.open("a") as file:
            file.write(f"{video.name} {video.start:g} {prompt}\n")
        brightness = [picture.mean() / 255 for _, picture in video.frames()]
        return Rating(explanation="I looked at its brightness.", rating=5 * sum(brightness) / len(brightness))
