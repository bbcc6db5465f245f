"""A report says the same before and after it has been a JSON text, and a text that is none is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from sfpp_core.stability.report import MAX_POINTS, ReportError, StabilityReport
from tests.helpers.measured import RATE, wandering
from tests.helpers.reports import event, report


def strictly(text: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("seconds", [1 / RATE, 0.5, 5, 60, 240])
def test_a_report_comes_back_from_json_as_it_was(seconds: float) -> None:
    events = [event("loop", 0.4 * seconds, seconds), event("cut", 0.2 * seconds, 0.2 * seconds)]
    thumbnails = wandering(round(seconds * RATE))
    before = report(seconds, events, video='Bär "7".mp4', thumbnails=thumbnails)
    after = StabilityReport.from_json(before.to_json())
    assert after == before and repr(after) == repr(before)
    assert [found.kind for found in before.events] == ["cut", "loop"]


def test_what_a_reader_of_the_json_finds() -> None:
    video = report(60, [event("blur", 20, 30)], contrast=0.0, thumbnails=wandering(60 * RATE))
    entries = strictly(video.to_json())
    assert (entries["format"], entries["version"]) == ("sfpp-stability-report", 1)
    assert entries["score"] == pytest.approx(50)
    assert [segment["rating"] for segment in entries["segments"]] == [5, 4, 3, 2, 1, 0]
    assert entries["events"][0]["kind"] == "blur"
    assert entries["metrics"]["repetition"]["repeats"] is False
    assert strictly(report(1 / RATE).to_json())["metrics"]["mean_flow"] is None


def test_a_long_video_keeps_its_course_and_its_peaks_in_few_points() -> None:
    num_frames = 3600 * RATE
    flow = np.full(num_frames, 0.1)
    flow[30_000] = 7.0
    luma = np.linspace(0.2, 0.8, num_frames)
    curves = report(3600, flow=flow, luminance=luma).curves
    assert len(curves.time) <= MAX_POINTS
    assert max(curves.flow) == 7.0
    assert curves.time[int(np.argmax(curves.flow))] == pytest.approx(30_000 / RATE, abs=2)
    assert np.allclose(curves.luminance, np.interp(curves.time, (0, 3600), (0.2, 0.8)), atol=1e-4)


def test_short_videos_lose_no_frame() -> None:
    assert len(report(MAX_POINTS / RATE).curves.time) == MAX_POINTS
    assert len(report((MAX_POINTS + 1) / RATE).curves.time) == MAX_POINTS // 2 + 1


def test_the_first_frame_has_the_motion_of_the_second() -> None:
    flow = np.array((0.0, 0.3, 0.2, 0.1))
    assert report(4 / RATE, flow=flow).curves.flow == (0.3, 0.3, 0.2, 0.1)


def test_other_texts_are_told_from_reports() -> None:
    with pytest.raises(ReportError, match="no JSON text"):
        StabilityReport.from_json("score: 84")
    with pytest.raises(ReportError, match="no stability report"):
        StabilityReport.from_json("[1, 2]")
    with pytest.raises(ReportError, match="no stability report"):
        StabilityReport.from_json('{"format": "another"}')
    with pytest.raises(ReportError, match="NaN is no JSON number"):
        StabilityReport.from_json('{"score": NaN}')
    with pytest.raises(ReportError, match="of version 2, this program reads version 1; make the report again"):
        StabilityReport.from_json('{"format": "sfpp-stability-report", "version": 2}')


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("video",), 7),
        (("score",), 3.0),
        (("segments",), []),
        (("segments",), [1]),
        (("segments", 0, "rating"), "good"),
        (("metrics",), [1]),
        (("metrics", "mean_flow"), "fast"),
        (("metrics", "frozen_share"), 2.0),
        (("metrics", "repetition"), True),
        (("metrics", "unheard_of"), 1.0),
        (("events",), None),
        (("events", 0, "colour"), "red"),
        (("events", 0, "kind"), "sunshine"),
        (("curves", "flow"), [0.0]),
        (("curves", "time", 1), 0.0),
    ],
    ids=lambda value: ".".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_damaged_reports_are_refused(path: tuple[str | int, ...], value: object) -> None:
    entries = strictly(report(20, [event("cut", 5, 5.1)]).to_json())
    *way, last = path
    place: Any = entries
    for step in way:
        place = place[step]
    place[last] = value
    with pytest.raises(ReportError, match="The report is damaged"):
        StabilityReport.from_json(json.dumps(entries))


@pytest.mark.parametrize("missing", ["video", "score", "judge", "segments", "metrics", "events", "curves"])
def test_reports_with_parts_missing_are_refused(missing: str) -> None:
    entries = strictly(report(20).to_json())
    del entries[missing]
    with pytest.raises(ReportError, match=f"damaged.*{missing}"):
        StabilityReport.from_json(json.dumps(entries))
