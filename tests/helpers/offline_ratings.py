"""What the offline judge says of some videos, kept beside its version, so that neither changes without the other.

After a change that is meant, raise the version in `OfflineJudge.name`, then record with
`python -m tests.helpers.offline_ratings`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import numpy as np

from sfpp_core.stability.measure import measure
from sfpp_core.stability.offline.judge import OfflineJudge, assess
from tests.helpers.clips import footage, pan
from tests.helpers.damages import DESIGNED

RECORD: Final = Path(__file__).parents[1] / "data" / "offline_ratings.json"
# A share of a video: more than processors and versions of OpenCV differ by, less than a change of a detector.
TOLERANCE: Final = 0.003

_FPS: Final = 12.0
# Of a damage that takes little, more.
_STRENGTHS: Final = {"cut": 1.0, "contrast loss": 1.0}

Shares = dict[str, dict[str, float]]
"""For each video, what each kind of damage takes of it, 0..1."""


def _videos() -> dict[str, list[np.ndarray]]:
    """One video for each kind of damage, one without any, and two that judges have got wrong."""
    frames = pan(72, _FPS)
    return {
        "undamaged": frames,
        "comes to rest": [
            _disc(x) for x in np.concatenate((20 + 80 * np.sin(np.linspace(0, np.pi / 2, 36)), [100] * 48))
        ],
        "fades in": _faded_in(DESIGNED["darkening"](frames, _FPS, 0.6)),
        **{kind: damage(frames, _FPS, _STRENGTHS.get(kind, 0.6)) for kind, damage in DESIGNED.items()},
    }


def _disc(x: float) -> np.ndarray:
    """A soft disc over a ground of stripes, its middle `x` pixels from the left."""
    rows, columns = np.mgrid[:72, :128]
    ground = 90 + 30 * np.sin(rows / 3) * np.sin(columns / 4)
    cover = np.clip(12 - np.hypot(rows - 36, columns - x), 0, 1)
    grey = ground * (1 - cover) + 200 * cover
    return np.repeat(np.round(grey)[..., None], 3, axis=2).astype(np.uint8)


def _faded_in(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Half a second of black, and a second of fading in."""
    light = np.clip(np.arange(len(frames)) / _FPS - 0.5, 0, 1)
    return [(frame * share).astype(np.uint8) for frame, share in zip(frames, light, strict=True)]


def measured_shares() -> Shares:
    """What the judge of now finds in the videos."""
    return {
        name: {str(kind): round(share, 4) for kind, share in assess(measure(footage(video, _FPS))).shares().items()}
        for name, video in _videos().items()
    }


def differences(recorded: Shares, found: Shares) -> list[str]:
    """Where two lists of shares are apart by more than the tolerance, in words."""
    if recorded.keys() != found.keys():
        return [f"the videos are {sorted(found)} instead of {sorted(recorded)}"]
    return [
        f"{name}: {kind} takes {share:.4f} instead of {recorded[name].get(kind, 0.0):.4f}"
        for name, shares in found.items()
        for kind, share in shares.items()
        if abs(share - recorded[name].get(kind, 0.0)) > TOLERANCE
    ]


def main() -> None:
    """Record what the judge finds, under its name; refused if that name stands for other ratings already."""
    recorded, found = json.loads(RECORD.read_text()), measured_shares()
    changed = differences(recorded["shares"], found)
    if changed and recorded["judge"] == OfflineJudge.name:
        raise SystemExit(f"{OfflineJudge.name} has rated otherwise; raise the version in its name first. {changed[0]}.")
    RECORD.write_text(json.dumps({"judge": OfflineJudge.name, "shares": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
