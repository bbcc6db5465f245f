"""The plot shows what the report says where it says it, and can be read."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from sfpp_core.stability.offline.judge import Damage
from sfpp_core.stability.plot import (
    BODY_POINTS,
    MAX_EVENTS,
    ORANGE,
    PURPLE,
    TITLE_POINTS,
    WIDTH_PX,
    lay_out,
    num_rows,
    plot_report,
    shortened,
    text_width,
)
from tests.helpers.measured import RATE
from tests.helpers.reports import event, report

ROOT = Path(__file__).resolve().parents[3]
KINDS = [str(kind) for kind in Damage]


def columns(image: Image.Image, color: str, close: float = 12) -> np.ndarray:
    """Columns of an image in which there are pixels of a colour."""
    distance = np.abs(np.asarray(image, dtype=float) - 255 * np.array(to_rgb(color))).max(axis=-1)
    return np.flatnonzero((distance < close).sum(axis=0) > 2)


@pytest.mark.parametrize("seconds", [1 / RATE, 5, 60, 240, 1200])
def test_every_length_is_drawn_at_the_same_width(seconds: float) -> None:
    image = plot_report(report(seconds, [event(kind, 0, seconds) for kind in KINDS[:3]]))
    assert image.mode == "RGB" and image.width == WIDTH_PX == 1024
    assert 600 < image.height < 1000


def test_the_same_report_gives_the_same_picture() -> None:
    shown = report(30, [event("blur", 10, 20)])
    assert plot_report(shown).tobytes() == plot_report(shown).tobytes()


def test_events_stand_over_the_seconds_they_last() -> None:
    still = columns(plot_report(report(60)), PURPLE)
    assert not len(still)
    found = columns(plot_report(report(60, [event("blur", 30, 45)])), PURPLE)
    left, right = 64, 1024 - 24
    seconds = 60 * (found - left) / (right - left)
    assert seconds.min() == pytest.approx(30, abs=0.2) and seconds.max() == pytest.approx(45, abs=0.2)


def test_clipped_highlights_are_seen_where_they_are() -> None:
    clipped = np.repeat((0.0, 0.5), 30 * RATE)
    found = columns(plot_report(report(60, highlights=clipped)), ORANGE, close=40)
    middle = (64 + 1024 - 24) / 2
    in_panel = found[(found < 590) | (found > 900)]  # the legend stands between
    assert (in_panel > middle - 5).all() and len(in_panel) > 100


@pytest.mark.parametrize("seed", range(5))
def test_names_of_events_never_overlap_and_stay_on_the_page(seed: int) -> None:
    rng = np.random.default_rng(seed)
    starts, lengths = rng.uniform(0, 240, 30), rng.choice((0.0, 0.1, 5, 60, 240), 30)
    events = [
        event(KINDS[index % 10], start, min(240, start + length), rng.random())
        for index, (start, length) in enumerate(zip(starts, lengths, strict=True))
    ]
    width = 936.0
    labels = lay_out(events, (0, 240), width)
    assert len(labels) == MAX_EVENTS
    weakest = min(label.event.strength for label in labels)
    assert all(found.strength <= weakest for found in events if found not in [label.event for label in labels])
    for row in range(num_rows(labels)):
        extents = []
        for label in labels:
            if label.row == row:
                name = (label.text, label.text + text_width(label.event.kind, BODY_POINTS))
                extents.append((min(label.bar[0], name[0]), max(label.bar[1], name[1])))
                assert label.inside == (label.bar[0] < name[0] and name[1] < label.bar[1])
        assert all(0 <= start and end <= width for start, end in extents)
        assert all(one[1] < other[0] for one, other in pairwise(sorted(extents)))


def test_events_that_fit_side_by_side_share_a_row() -> None:
    assert num_rows(lay_out([event("cut", 10, 10), event("cut", 40, 40)], (0, 60), 936)) == 1
    assert num_rows(lay_out([event("cut", 10, 10), event("loop", 10, 40)], (0, 60), 936)) == 2
    assert num_rows(lay_out([], (0, 60), 936)) == 0


def test_names_that_look_like_formulas_are_just_names() -> None:
    """Between dollar signs Matplotlib would read mathematics, and stop at what is none."""
    assert plot_report(report(5, video=r"$\frac{ 100% _video_$ {x}.mp4")).width == WIDTH_PX


def test_long_names_keep_beginning_and_end() -> None:
    name = "a_red_ball_in_the_meadow_" * 10 + "seed_7.mp4"
    short = shortened(name, 400, TITLE_POINTS)
    assert text_width(short, TITLE_POINTS) <= 400
    assert short.startswith("a_red_ball") and short.endswith("seed_7.mp4")
    assert shortened("video.mp4", 400, TITLE_POINTS) == "video.mp4"


def test_drawing_leaves_no_trace_in_the_process() -> None:
    """No pyplot, which opens windows and keeps figures, and nothing changed for others who draw."""
    program = (
        "import sys, matplotlib\n"
        "before = matplotlib.rcParams.copy()\n"
        "from sfpp_core.stability.plot import plot_report\n"
        "from tests.helpers.reports import event, report\n"
        "plot_report(report(10, [event('blur', 2, 5)]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert matplotlib.rcParams.copy() == before\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
