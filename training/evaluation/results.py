"""All films of an evaluation as arrays, and what they say of the arms.

Axes: P prompt, S take.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .frechet import frechet_distance, standardised
from .records import FilmRecord
from .statistics import NOTHING, Estimate, cluster_mean, cluster_ratio, jackknife


def _as_is(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


def _percent(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 100 * values


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A figure of films that tables and plots show."""

    name: str
    title: str
    field: str
    """Of FilmFigures or ContentFigures."""
    scale: Callable[[NDArray[np.float64]], NDArray[np.float64]] = _as_is
    digits: int = 3


MEASURES: Final[tuple[Measure, ...]] = (
    Measure(name="stability", title="Visual Stability, film so far", field="stability", digits=1),
    Measure(name="stability_end", title="Visual Stability, last 5 s", field="stability_end", digits=1),
    Measure(name="dynamic_degree", title="Dynamic degree, %", field="dynamic_degree", scale=_percent, digits=1),
    Measure(
        name="dynamic_degree_end",
        title="Dynamic degree, last 5 s, %",
        field="dynamic_degree_end",
        scale=_percent,
        digits=1,
    ),
    Measure(name="flow_variance", title="Flow variance in windows of 8 frames", field="flow_variance", digits=6),
    Measure(
        name="no_repeat",
        title="NoRepeat, %",
        field="repeats",
        scale=lambda repeats: 100 - 100 * repeats,
        digits=1,
    ),
    Measure(name="frozen", title="Frozen, % of the film", field="frozen", scale=_percent, digits=1),
    Measure(name="exposure_drift", title="Exposure drift from the first seconds", field="exposure_drift", scale=np.abs),
    Measure(name="hue_drift", title="Hue drift from the first seconds, CIELAB", field="hue_drift", digits=2),
    Measure(name="contrast_drift", title="Contrast drift from the first seconds", field="contrast_drift", scale=np.abs),
    Measure(name="luminance_bias", title="Luminance less the truth's", field="luminance_error"),
    Measure(name="luminance_error", title="Luminance error against the truth", field="luminance_error", scale=np.abs),
    Measure(name="colour_error", title="Colour error against the truth", field="colour_error"),
    Measure(name="contrast_error", title="Contrast error against the truth", field="contrast_error", scale=np.abs),
    *(
        Measure(name=name, title=f"{title} as prompted, last 5 s, %", field=name, scale=_percent, digits=1)
        for name, title in (
            ("place", "Place"),
            ("object", "Object"),
            ("colour", "Colour"),
            ("motion", "Motion"),
            ("speed", "Speed"),
            ("all_five", "All five"),
        )
    ),
)


class Results:
    """The films of several arms."""

    def __init__(
        self, records: Iterable[FilmRecord], arms: list[str], *, truths: list[str], prompts: int, takes: int
    ) -> None:
        """arms: their names, in the order of tables. truths: those of them that are the truth."""
        self.arms, self.truths = arms, truths
        self.shape = (prompts, takes)
        self._films = {(record.key.arm, record.key.prompt, record.key.take): record for record in records}

    @cached_property
    def lengths(self) -> list[str]:
        """Names of all lengths that any film was judged at, rising."""
        return sorted({length for record in self._films.values() for length in record.figures}, key=float)

    @property
    def measures(self) -> list[Measure]:
        """The measures that some film has."""
        fields = {field for record in self._films.values() for of in record.figures.values() for field in of}
        return [measure for measure in MEASURES if measure.field in fields]

    @property
    def seconds_a_film(self) -> dict[str, float]:
        """Mean wall time of an arm's films."""
        return {
            arm: float(np.mean([record.seconds for (of, *_), record in self._films.items() if of == arm]))
            for arm in self.arms
        }

    def texts(self) -> dict[int, str]:
        """The prompts by number."""
        return {prompt: record.text for (_, prompt, _), record in sorted(self._films.items())}

    def values(self, measure: Measure, arm: str, length: str) -> NDArray[np.float64]:
        """[P, S], NaN where a film has no such figure."""
        values = np.full(self.shape, np.nan)
        for (of, prompt, take), record in self._films.items():
            value = record.figures.get(length, {}).get(measure.field) if of == arm else None
            if value is not None:
                values[prompt, take] = value
        return measure.scale(values)

    def stability_of_films(self) -> dict[str, dict[str, list[list[float | None]]]]:
        """Visual Stability of the film so far by arm and length, [P, S], for questions that nobody has asked yet."""
        stability = next(measure for measure in self.measures if measure.name == "stability")
        return {
            arm: {
                length: [
                    [round(value, 2) if np.isfinite(value) else None for value in takes]
                    for takes in self.values(stability, arm, length).tolist()
                ]
                for length in self.lengths
            }
            for arm in self.arms
        }

    def mean(self, measure: Measure, arm: str, length: str) -> Estimate:
        """Mean of an arm's films at a length."""
        return cluster_mean(self.values(measure, arm, length))

    def change(self, measure: Measure, arm: str, length: str) -> Estimate:
        """Mean difference of each film from itself at the shortest length."""
        return cluster_mean(self.values(measure, arm, length) - self.values(measure, arm, self.lengths[0]))

    def difference(self, measure: Measure, arm: str, baseline: str, length: str) -> Estimate:
        """Mean difference of each film from the baseline's of the same prompt and seed."""
        return cluster_mean(self.values(measure, arm, length) - self.values(measure, baseline, length))

    def ratio(self, measure: Measure, arm: str, reference: str, length: str) -> Estimate:
        """An arm's mean as a multiple of another's, prompts drawn together."""
        own, other = (self.values(measure, name, length) for name in (arm, reference))
        both = np.isfinite(own) & np.isfinite(other)
        return cluster_ratio(*(np.where(both, values, np.nan) for values in (own, other))) if both.any() else NOTHING

    def distance(self, truths: list[NDArray[np.float64]], arm: str, length: str) -> Estimate:
        """Frechet distance of an arm's last 5 s from true windows of the same prompts.

        truths: the reader's features [N, D] of the true windows of each prompt.
        """
        own: list[list[list[float]]] = [[] for _ in truths]
        for (of, prompt, _), record in sorted(self._films.items()):
            if of == arm and length in record.features:
                own[prompt].append(record.features[length])
        films = sum(map(len, own))
        if min(map(len, own)) == 0 or films < 3:
            return NOTHING
        everything = np.concatenate(truths)
        true = [standardised(of_prompt, everything) for of_prompt in truths]
        made = [standardised(np.array(of_prompt), everything) for of_prompt in own]

        def distance_of(prompts: NDArray[np.intp]) -> float:
            sets = ([windows[prompt] for prompt in prompts] for windows in (made, true))
            return frechet_distance(*(np.concatenate(windows) for windows in sets))

        # Leaving a prompt out must leave two windows to tell a covariance from.
        enough = films - max(map(len, own)) >= 2
        return jackknife(distance_of, len(truths), films) if enough else NOTHING

    def curve(self, quantity: str, arm: str) -> NDArray[np.float64]:
        """[P S, edges - 1] drift by quantity, of the films that there are."""
        return np.array([record.curves[quantity] for (of, *_), record in self._films.items() if of == arm])

    def by_attribute(self, attribute_of: Callable[[int], str], field: str, arm: str, length: str) -> dict[str, float]:
        """Mean of a field over the prompts that share an attribute's value."""
        found: dict[str, list[float]] = {}
        for (of, prompt, _), record in sorted(self._films.items()):
            value = record.figures.get(length, {}).get(field)
            if of == arm and value is not None:
                found.setdefault(attribute_of(prompt), []).append(value)
        return {value: round(float(np.mean(errors)), 5) for value, errors in sorted(found.items())}
