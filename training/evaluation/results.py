"""Results of an evaluation: one JSON line a video, then arrays, means with intervals, and distances.

Every process appends to a file of its own, so no two ever write to one; all are read. A line carries the identity of
all that decided it, so that a video is judged again when its student was trained on, and not otherwise. Prompts are a
sample of all prompts, and the videos of one are alike: intervals are over prompts. How far a set of videos is from the
truth as a whole is a Frechet distance.

Axes: P prompt, S take of a prompt, N window, D feature. NaN marks a video without a figure.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from torch import Tensor

from ..config import ConfigError

FILES = "films-*.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoKey:
    """The key of a video: prompt and take."""

    arm: str
    prompt: int
    """Number of the prompt."""
    take: int
    """Number of the video among those of a prompt; takes of the same number have the same seed in every arm."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoRecord:
    """A video that was judged."""

    key: VideoKey
    identity: str
    """Hash of all that decided the video and its figures."""
    text: str
    """The prompt."""
    seed: int
    """Of the noise; for the truth, of what the prompt leaves open."""
    figures: dict[str, dict[str, float | None]]
    """By length in seconds, `length_name`: the fields of VideoFigures and ContentFigures."""
    features: dict[str, list[float]]
    """By length: what the reader says of the last 5 s; empty without a reader."""
    curves: dict[str, list[float]]
    """Drift by quantity, one value between neighbouring `curve_edges`."""
    seconds: float
    """Of wall time that the video took, its share of those made with it."""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, line: str) -> VideoRecord:
        """The record that `to_json` wrote. Raises ValueError, KeyError or TypeError for anything else."""
        entries = json.loads(line)
        return cls(**entries | {"key": VideoKey(**entries["key"])})


def length_name(seconds: float) -> str:
    """Return how a length is called in records: 5, 50, 0.5."""
    return f"{seconds:g}"


def identity_of(decisive: dict[str, Any]) -> str:
    """Hash of what JSON can hold."""
    return hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=12).hexdigest()


def hash_of_text(embeddings: Tensor) -> str:
    """Hash of what networks are told of a prompt; embeddings on the CPU."""
    return hashlib.sha256(embeddings.numpy().tobytes()).hexdigest()


def read_records(folder: Path) -> dict[tuple[VideoKey, str], VideoRecord]:
    """Read all videos of a folder by key and identity.

    Raises:
        ConfigError: a line that is no record, except a last one that a dying process has not written to its end.
    """
    found = {}
    for path in sorted(folder.glob(FILES)):
        for number, line in _whole_lines(path):
            try:
                record = VideoRecord.from_json(line)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{path} line {number} is no video of the evaluate stage; move the file away, or choose another "
                    "run.out."
                ) from error
            found[record.key, record.identity] = record
    return found


def append_record(folder: Path, rank: int, record: VideoRecord) -> None:
    """Write a record to the file of a process; it is on the disk when this returns."""
    with (folder / FILES.replace("*", f"{rank:03d}")).open("ab+") as file:
        _drop_broken_end(file)
        file.write(record.to_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(path: Path) -> Iterator[tuple[int, str]]:
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].decode().splitlines()
    return iter(enumerate(lines, start=1))


def _drop_broken_end(file: Any) -> None:
    """Cut off a last line without an end, which an earlier process left when it died."""
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
    file.seek(0, os.SEEK_END)


CONFIDENCE: Final = 0.95
NUM_RESAMPLES: Final = 2000
SEED: Final = 0
"""Of the resampling: the same figures give the same interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean and its 95 % confidence interval; None where there is nothing to tell it from."""

    mean: float | None
    low: float | None = None
    high: float | None = None
    videos: int = 0
    """How many videos count."""

    def to_json(self) -> dict[str, float | int | None]:
        """Return the estimate under the keys that every report has had."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "films": self.videos}


NOTHING: Final = Estimate(mean=None)


def cluster_mean(values: NDArray[np.float64]) -> Estimate:
    """Mean of videos [P, S], with a percentile interval from the bootstrap of whole clusters.

    Prompts are drawn with replacement and, within each drawn one, its takes (Davison and Hinkley, Bootstrap Methods and
    their Application, 1997, section 3.8). One prompt alone has no interval.
    """
    return _resampled(lambda drawn: np.nanmean(drawn[0], axis=(1, 2)), values)


def cluster_ratio(values: NDArray[np.float64], references: NDArray[np.float64]) -> Estimate:
    """Mean of videos [P, S] as a multiple of the mean of reference videos [P, S], drawn together; None at 0."""
    if not np.nanmean(references) > 0:
        return NOTHING
    return _resampled(
        lambda drawn: np.nanmean(drawn[0], axis=(1, 2)) / np.nanmean(drawn[1], axis=(1, 2)), values, references
    )


def jackknife(statistic: Callable[[NDArray[np.intp]], float], num_prompts: int, videos: int) -> Estimate:
    """A statistic of a set of prompts (their numbers), with a t interval from leaving out one prompt at a time.

    For statistics that repeated prompts would mislead, such as distances of distributions (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 11).
    """
    everybody = np.arange(num_prompts)
    mean = statistic(everybody)
    if num_prompts < 3:
        return Estimate(mean=mean, videos=videos)
    without = np.array([statistic(np.delete(everybody, prompt)) for prompt in everybody])
    error = math.sqrt((num_prompts - 1) / num_prompts * float(((without - without.mean()) ** 2).sum()))
    reach = float(stdtrit(num_prompts - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(mean=mean, low=mean - reach, high=mean + reach, videos=videos)


def _resampled(
    statistic: Callable[[list[NDArray[np.float64]]], NDArray[np.float64]], *samples: NDArray[np.float64]
) -> Estimate:
    """Statistics of arrays [R, P, S], one a resample, of samples [P, S] that are drawn alike."""
    known = np.isfinite(samples[0])
    kept = known.any(axis=1)
    if not kept.any():
        return NOTHING
    samples = tuple(sample[kept] for sample in samples)
    mean = float(statistic([sample[None] for sample in samples])[0])
    num_prompts, num_takes = samples[0].shape
    if num_prompts == 1:
        return Estimate(mean=mean, videos=int(known.sum()))
    generator = np.random.default_rng(SEED)
    prompts = generator.integers(num_prompts, size=(NUM_RESAMPLES, num_prompts, 1))
    takes = generator.integers(num_takes, size=(NUM_RESAMPLES, num_prompts, num_takes))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = statistic([sample[prompts, takes] for sample in samples])
    if not np.isfinite(means).all():
        # A ratio to a mean that may be 0: the interval has no end.
        return Estimate(mean=mean, videos=int(known.sum()))
    low, high = np.quantile(means, ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2))
    return Estimate(mean=mean, low=float(low), high=float(high), videos=int(known.sum()))


LEAST_DEVIATION = 1e-6
"""Below it a feature says nothing and is left as it is."""


def frechet_distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Frechet distance of the normal distributions with the moments of a [N, D] and b [N', D].

    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), Dowson and Landau 1982; of a network's features as in Heusel et
    al. (arXiv 1706.08500). It shrinks as the sets grow: compare sets of equal size only.

    Raises:
        ValueError: fewer than two windows in a set, which have no covariance.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"sets of {len(a)} and {len(b)} windows; a covariance needs at least 2 in each.")
    (mean_a, root_a), (mean_b, root_b) = _moments(a), _moments(b)
    # The trace of (S_a S_b)^(1/2) is the sum of the singular values of S_a^(1/2) S_b^(1/2).
    cross = np.linalg.svd(root_a @ root_b, compute_uv=False).sum()
    spread = (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return float(((mean_a - mean_b) ** 2).sum() + max(0.0, spread))


def standardised(features: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features [N, D] in deviations of the true ones [N', D] from their mean, so that every feature counts alike."""
    deviation = truth.std(axis=0)
    return (features - truth.mean(axis=0)) / np.where(deviation > LEAST_DEVIATION, deviation, 1.0)


def _moments(features: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean, and the symmetric root of the covariance."""
    values, vectors = np.linalg.eigh(np.cov(features, rowvar=False))
    return features.mean(axis=0), (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def _as_is(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values


def _percent(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 100 * values


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A figure of videos that tables and plots show."""

    name: str
    title: str
    field: str
    """Of VideoFigures or ContentFigures."""
    scale: Callable[[NDArray[np.float64]], NDArray[np.float64]] = _as_is
    digits: int = 3


MEASURES: Final[tuple[Measure, ...]] = (
    Measure(name="stability", title="Visual Stability, video so far", field="stability", digits=1),
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
    Measure(name="frozen", title="Frozen, % of the video", field="frozen", scale=_percent, digits=1),
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
    """The videos of several arms."""

    def __init__(
        self, records: Iterable[VideoRecord], arms: list[str], *, truths: list[str], prompts: int, takes: int
    ) -> None:
        """arms: their names, in the order of tables. truths: those of them that are the truth."""
        self.arms, self.truths = arms, truths
        self.shape = (prompts, takes)
        self._videos = {(record.key.arm, record.key.prompt, record.key.take): record for record in records}

    @cached_property
    def lengths(self) -> list[str]:
        """Names of all lengths that any video was judged at, rising."""
        return sorted({length for record in self._videos.values() for length in record.figures}, key=float)

    @property
    def measures(self) -> list[Measure]:
        """The measures that some video has."""
        fields = {field for record in self._videos.values() for of in record.figures.values() for field in of}
        return [measure for measure in MEASURES if measure.field in fields]

    @property
    def seconds_a_video(self) -> dict[str, float]:
        """Mean wall time of an arm's videos."""
        return {
            arm: float(np.mean([record.seconds for (of, *_), record in self._videos.items() if of == arm]))
            for arm in self.arms
        }

    def texts(self) -> dict[int, str]:
        """The prompts by number."""
        return {prompt: record.text for (_, prompt, _), record in sorted(self._videos.items())}

    def values(self, measure: Measure, arm: str, length: str) -> NDArray[np.float64]:
        """[P, S], NaN where a video has no such figure."""
        values = np.full(self.shape, np.nan)
        for (of, prompt, take), record in self._videos.items():
            value = record.figures.get(length, {}).get(measure.field) if of == arm else None
            if value is not None:
                values[prompt, take] = value
        return measure.scale(values)

    def stability_of_videos(self) -> dict[str, dict[str, list[list[float | None]]]]:
        """Visual Stability of the video so far by arm and length, [P, S], for questions that nobody has asked yet."""
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
        """Mean of an arm's videos at a length."""
        return cluster_mean(self.values(measure, arm, length))

    def change(self, measure: Measure, arm: str, length: str) -> Estimate:
        """Mean difference of each video from itself at the shortest length."""
        return cluster_mean(self.values(measure, arm, length) - self.values(measure, arm, self.lengths[0]))

    def difference(self, measure: Measure, arm: str, baseline: str, length: str) -> Estimate:
        """Mean difference of each video from the baseline's of the same prompt and seed."""
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
        for (of, prompt, _), record in sorted(self._videos.items()):
            if of == arm and length in record.features:
                own[prompt].append(record.features[length])
        videos = sum(map(len, own))
        if min(map(len, own)) == 0 or videos < 3:
            return NOTHING
        everything = np.concatenate(truths)
        true = [standardised(of_prompt, everything) for of_prompt in truths]
        made = [standardised(np.array(of_prompt), everything) for of_prompt in own]

        def distance_of(prompts: NDArray[np.intp]) -> float:
            sets = ([windows[prompt] for prompt in prompts] for windows in (made, true))
            return frechet_distance(*(np.concatenate(windows) for windows in sets))

        # Leaving a prompt out must leave two windows to tell a covariance from.
        enough = videos - max(map(len, own)) >= 2
        return jackknife(distance_of, len(truths), videos) if enough else NOTHING

    def curve(self, quantity: str, arm: str) -> NDArray[np.float64]:
        """[P S, edges - 1] drift by quantity, of the videos that there are."""
        return np.array([record.curves[quantity] for (of, *_), record in self._videos.items() if of == arm])

    def by_attribute(self, attribute_of: Callable[[int], str], field: str, arm: str, length: str) -> dict[str, float]:
        """Mean of a field over the prompts that share an attribute's value."""
        found: dict[str, list[float]] = {}
        for (of, prompt, _), record in sorted(self._videos.items()):
            value = record.figures.get(length, {}).get(field)
            if of == arm and value is not None:
                found.setdefault(attribute_of(prompt), []).append(value)
        return {value: round(float(np.mean(errors)), 5) for value, errors in sorted(found.items())}
