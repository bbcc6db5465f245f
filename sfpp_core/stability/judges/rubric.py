"""The question that a language model is asked about a video, and what of its answer counts.

The protocol is the paper's (arXiv 2510.02283, section 4): the model sees the video and the prompt that made it,
explains what it sees of exposure and degradation, and only then gives a whole number from 0 to 5. The wording is ours.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from ...video.span import VideoSpan
from ..score import MAX_RATING, Rating, clock

RUBRIC_VERSION: Final = 1
"""Goes up with every change of a word below: ratings by another wording are other ratings."""

INSTRUCTIONS: Final = f"""\
You inspect videos that were made by a generative model. You grade one thing: how well the picture survives from the
first frame to the last. Long generated videos tend to break down slowly: they grow brighter until everything is white,
sink into darkness, fade to grey, take on a colour, lose detail, or freeze.

Watch the whole clip, and look at its later parts as closely as at its beginning. Then write, in this order:

explanation: two to five sentences about what you saw. Say how exposure, contrast, colour and fine detail begin and what
becomes of them. For each fault name what part of the picture it takes up, when it starts and whether it goes away.
If there is none, say what shows that: detail in the brightest and in the darkest places, late in the clip too.

rating: one whole number that follows from the explanation.
{MAX_RATING}: exposure is balanced throughout; bright and dark places keep their detail to the end.
4: small faults here and there, such as a short-lived burnt-out spot; they do not disturb.
3: faults that are easy to see, but limited to a part of the picture or to a part of the time.
2: faults that stay, such as highlights that remain clipped or shadows that remain black; detail is lost, yet one can
   still follow what is shown.
1: large areas cannot be made out, for most of the time.
0: nearly every frame is washed out, black, or otherwise destroyed.

Judge what is in the picture. Do not excuse a fault as an artistic choice, as lighting, or as a change of scene, unless
the prompt asks for exactly that: a prompt for a night scene excuses darkness, not blocks of pure black without any
detail; no prompt that leaves brightness unsaid excuses white areas. Beauty, liveliness and how closely the video
follows its prompt do not count.
"""

ANSWER_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "explanation": {"type": "string", "description": "What was seen and when, before any number."},
        "rating": {"type": "integer", "minimum": 0, "maximum": MAX_RATING},
    },
    "required": ["explanation", "rating"],
    "additionalProperties": False,
}
"""JSON schema of an answer; its order is the order in which the model writes."""

ANSWER_IN_WORDS: Final = (
    'Answer with one JSON object and nothing else: {"explanation": "<text>", "rating": '
    f"<whole number from 0 to {MAX_RATING}>}}, explanation first."
)


class UnusableAnswer(ValueError):
    """An answer that is no rating; the message says what is wrong with it."""


def question(video: VideoSpan, prompt: str) -> str:
    """Return the question about one clip: its length, its place in a longer video, the prompt that it was made from."""
    lines = [f"The clip is {video.duration:.1f} seconds long."]
    if not video.is_whole:
        lines.append(
            f"It is the part from {clock(video.start)} to {clock(video.end)} (minutes:seconds) of a longer video; "
            f"give times as in the longer video, from {clock(video.start)} on."
        )
    if prompt.strip():
        lines.append(f"It was made from the prompt between the markers.\n<prompt>\n{prompt.strip()}\n</prompt>")
    else:
        lines.append("Its prompt is not known, so that nothing is excused by it.")
    return "\n".join([*lines, ANSWER_IN_WORDS])


def complaint(reason: str) -> str:
    """Return what is added to the question when it is asked again because the answer could not be used."""
    return f"\nAn earlier answer could not be used: {reason} {ANSWER_IN_WORDS}"


def parse_answer(text: str) -> Rating:
    """The rating in an answer; words or code fences around the JSON object are passed over.

    Raises:
        UnusableAnswer: there is no such object, the explanation is empty, or the rating is no whole number in range.
    """
    answers = [found for found in _objects(text) if "rating" in found]
    if not answers:
        raise UnusableAnswer(f"It holds no JSON object with a rating: {_excerpt(text)}.")
    explanation, rating = answers[-1].get("explanation"), answers[-1]["rating"]
    if not isinstance(explanation, str) or not explanation.strip():
        raise UnusableAnswer("Its explanation is empty.")
    is_number = isinstance(rating, int | float) and not isinstance(rating, bool)
    if not is_number or rating != rating // 1 or not 0 <= rating <= MAX_RATING:
        raise UnusableAnswer(f"Its rating is {rating!r}, which is no whole number from 0 to {MAX_RATING}.")
    return Rating(explanation=" ".join(explanation.split()), rating=int(rating))


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """The JSON objects in a text, in order; the last is the answer, as models that think aloud end with it."""
    decoder, position = json.JSONDecoder(), 0
    while (position := text.find("{", position)) >= 0:
        try:
            found, position = decoder.raw_decode(text, position)
        except ValueError:
            position += 1
        else:
            yield found


def _excerpt(text: str) -> str:
    """The beginning of an answer, for messages."""
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 80 else flat[:80] + "...") if flat else "it is empty"
