"""Prompt schedules as artists type them."""

from __future__ import annotations

import pytest

from sfpp_core.rollout.prompt_schedule import parse_timed_lines, spoken_time


def read(text: str) -> list[tuple[float, str]]:
    return [(prompt.seconds, prompt.prompt) for prompt in parse_timed_lines(text)]


def test_times_on_a_clock() -> None:
    text = """
    # a day at the sea
    0:00 a calm sea

    0:20.5 the sea at night
    1:02:03   a storm: 2 boats
    """
    assert read(text) == [(0.0, "a calm sea"), (20.5, "the sea at night"), (3723.0, "a storm: 2 boats")]


def test_times_in_seconds() -> None:
    text = """
    0s a calm sea
    2.5 s a wave
    90s 3 gulls cry
    """
    assert read(text) == [(0.0, "a calm sea"), (2.5, "a wave"), (90.0, "3 gulls cry")]


@pytest.mark.parametrize(
    "line",
    ["a sign says 0:20", "90shapes", "3D letters", "8k, detailed", "(35mm film:1.2)", "1girl", "\u4e00\u53ea\u732b"],
)
def test_words_that_hold_a_number_are_no_times(line: str) -> None:
    assert read(f"0:00 a calm sea\n{line}") == [(0.0, f"a calm sea {line}")]


def test_a_prompt_may_begin_with_a_number_behind_its_time() -> None:
    assert read("0:00 16 ships far out\n0:20 2 boats: one red") == [
        (0.0, "16 ships far out"),
        (20.0, "2 boats: one red"),
    ]


def test_a_prompt_may_take_several_lines_and_the_first_needs_no_time() -> None:
    assert read("a calm sea,\nsixteen ships far out\n0:20\nnight falls") == [
        (0.0, "a calm sea, sixteen ships far out"),
        (20.0, "night falls"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        *(
            "0\uff1a20 b",
            "20\u79d2 b",
            "20 \u79d2 b",
            "\u7b2c20\u79d2 b",
            "\u4e8c\u5341\u79d2 b",
            "\uff12\uff10 b",
            "20\ucd08 b",
            "20 \u0441\u0435\u043a b",
        ),
        *("20 sec b", "20sec: b", "20 seconds b", "20m b", "20f b", "24 b", "24: b", "20, b", "0.20 b", "00-20 b"),
        *("[0:20] b", "(20 s) b", "- 20 b", "16:9 widescreen", "0:20PM b", "16 ships far out", "2 boats: one red"),
        *('"24": "b"', '{"0": "a", "24": "b"}', "0:a cat"),
    ],
)
def test_a_line_that_begins_with_a_number_and_is_no_time_is_refused(line: str) -> None:
    """Else a schedule that was typed another way would be one prompt for the whole video."""
    with pytest.raises(ValueError, match="begins with a number that is no time. Type a time as 0:20 or 90s"):
        parse_timed_lines(f"0:00 a\n{line}")
    with pytest.raises(ValueError, match="begins with a number that is no time"):
        parse_timed_lines(line)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the schedule is empty"),
        ("# nothing\n\n", "the schedule is empty"),
        ("0:00 a\n0:20", "at 0:20; add a prompt"),
        ("0:61 a", "'0:61 a' begins with 0:61"),
        ("1:60:00 a", "go up to 59"),
        ("0:20 a\n0:20 b", "two prompts begin at 0:20"),
        ("0:00 a synthesizer,\n80s synthwave", r"'80s synthwave' begins with a time of another form than 0:00"),
        ("0s a\n0:20 b", "Write all times alike"),
        ("0:00 a\n16:9 widescreen", r"'16:9 widescreen' begins with a number that is no time"),
        ("0:0 a", "begins with a number that is no time"),
        ("0:00 a\n0:30 b\n0:20 c", "0:20 comes after 0:30; sort the lines"),
        ("0:00, a", "begins with a number that is no time"),
        ("0:00 a\n[0:20] b", r"'\[0:20\] b' begins with a number that is no time"),
        ("0:00 a\n0:20: b", "begins with a number that is no time"),
        ("0:00 a\n(20s) b", "begins with a number that is no time"),
        ("0:00 a\n20s: b", "begins with a number that is no time"),
        ("0:00 a\n0 : 20 b", "begins with a number that is no time"),
        ("0:00 a\n99:00:00 b", "more than a day"),
        (f"0s a\n{'9' * 400}s b", "more than a day"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_timed_lines(text)


@pytest.mark.parametrize("time", ["0:00", "0:07.5", "2:03", "59:59", "1:02:03", "12:00:00.5"])
def test_times_are_spoken_as_they_are_typed(time: str) -> None:
    ((seconds, _),) = read(f"{time} a")
    assert spoken_time(seconds) == time
