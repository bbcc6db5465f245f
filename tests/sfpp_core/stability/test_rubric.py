"""What a model is asked, and which of its answers are ratings."""

from __future__ import annotations

import pytest
import torch

from sfpp_core.stability.judges.rubric import ANSWER_SCHEMA, UnusableAnswer, complaint, parse_answer, question
from sfpp_core.video.span import VideoSpan


@pytest.fixture(scope="module")
def video() -> VideoSpan:
    return VideoSpan.from_images(torch.full((64, 16, 16, 3), 0.5), fps=1)


def test_the_question_says_what_the_clip_is_a_part_of_and_what_it_was_made_from(video: VideoSpan) -> None:
    whole = question(video, " a red ball\n")
    assert "64.0 seconds long" in whole and "longer video" not in whole
    assert "<prompt>\na red ball\n</prompt>" in whole
    part = question(video.segment(10, 64), "")
    assert "54.0 seconds long" in part and "from 0:10.0 to 1:04.0" in part
    assert "prompt is not known" in part and "<prompt>" not in part


def test_the_explanation_is_asked_for_before_the_rating() -> None:
    assert list(ANSWER_SCHEMA["properties"]) == ["explanation", "rating"] == ANSWER_SCHEMA["required"]


@pytest.mark.parametrize(
    "text",
    [
        '{"explanation": "It  fades.\\n", "rating": 3}',
        '```json\n{"rating": 3, "explanation": "It fades."}\n```',
        'Let me see. {"draft": {"rating": 1}} {"not json}. So: {"explanation": "It fades.", "rating": 3.0} Done.',
        '<think>{"explanation": "Fine?", "rating": 5}</think>{"explanation": "It fades.", "rating": 3}',
    ],
)
def test_the_last_json_object_with_a_rating_is_the_answer(text: str) -> None:
    rating = parse_answer(text)
    assert (rating.explanation, rating.rating) == ("It fades.", 3)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it is empty"),
        ("It is a fine video, 4 of 5." + " Really." * 50, "no JSON object with a rating: 'It is a fine video"),
        ('{"explanation": "Cut o', "no JSON object"),
        ('[{"explanation": "x"}]', "no JSON object with a rating"),
        ('{"rating": 4}', "explanation is empty"),
        ('{"explanation": " ", "rating": 4}', "explanation is empty"),
        ('{"explanation": 4, "rating": 4}', "explanation is empty"),
        ('{"explanation": "x", "rating": 6}', "rating is 6"),
        ('{"explanation": "x", "rating": -1}', "rating is -1"),
        ('{"explanation": "x", "rating": 3.5}', "rating is 3.5"),
        ('{"explanation": "x", "rating": NaN}', "rating is nan"),
        ('{"explanation": "x", "rating": Infinity}', "rating is inf"),
        ('{"explanation": "x", "rating": true}', "rating is True"),
        ('{"explanation": "x", "rating": "4"}', "rating is '4'"),
        ('{"explanation": "x", "rating": null}', "rating is None"),
    ],
)
def test_anything_else_is_no_rating_and_is_complained_about(text: str, reason: str) -> None:
    with pytest.raises(UnusableAnswer) as caught:
        parse_answer(text)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 200
    assert str(caught.value) in complaint(str(caught.value))
