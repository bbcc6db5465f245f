"""Detectors of damage: how severe it is in each frame, by kind (light, colour, detail, flicker, freeze).

Exposure, contrast and colour are compared with the first seconds, and with what a picture can hold. Amounts are in
display values (0 black, 1 white), which are nearly even to the eye: 0.01 is about one unit of CIE lightness, and two to
three of those are just noticeable side by side.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from ...video.writer import LUMA
from ..measure import JUST_NOTICEABLE, FrameSeries, cielab, true_runs
from .shots import Shots, combined, severity, window_frames, windowed_mean, windowed_median

_LUMINANCE_SCALE: Final = 0.3
_DARKNESS_OCTAVES: Final = 2.0
_CLIPPED_SCALE: Final = 0.25
# A scene may have a lamp or a night sky in it from the start; beyond this share nothing excuses it.
_EXCUSED_CLIPPED: Final = 0.2
_EXCUSED_CRUSHED: Final = 0.5
# Nor does a video owe a picture at once.
_PARDONED_BLACK_SECONDS: Final = 2.0
_CONTRAST_OCTAVES: Final = 1.2
_GRANTED: Final = 1.5
# Deviations below a grey level are those of a plain picture.
_LEAST: Final = 1 / 255


def over_exposure(shots: Shots) -> np.ndarray:
    """[F] severity of a rise of luminance, and of highlights that are blown out.

    A rise counts in full where it ends in a bright picture, and half where the picture stays dark.
    """
    series = shots.series
    rise = luminance_drift(shots) * (2 * series.luminance).clip(0.5, 1.0)
    return combined(
        severity(rise, _LUMINANCE_SCALE),
        severity(shots.drift(series.highlights), _CLIPPED_SCALE),
        severity(series.highlights - _EXCUSED_CLIPPED, 2 * _CLIPPED_SCALE),
    )


def darkening(shots: Shots) -> np.ndarray:
    """[F] severity of a fall of luminance, also in proportion to what there was, and of shadows that are crushed.

    A fall counts in full where it ends in a dark picture, and half where the picture stays bright.
    """
    series = shots.series
    fall = -luminance_drift(shots)
    octaves = -shots.drift(np.log2(series.luminance + _LEAST))
    # Both must agree: the mean also falls when a bright thing leaves, and octaves are many in a picture of night.
    fall = np.minimum(np.maximum(fall, octaves / _DARKNESS_OCTAVES * _LUMINANCE_SCALE), 2 * np.maximum(fall, 0))
    fall *= (2 * (1 - series.luminance)).clip(0.5, 1.0)
    crushed = series.shadows - _EXCUSED_CRUSHED
    crushed[: min(shots.opening, window_frames(_PARDONED_BLACK_SECONDS, series.rate))] = 0.0
    return combined(
        severity(fall, _LUMINANCE_SCALE),
        severity(shots.drift(series.shadows), 2 * _CLIPPED_SCALE),
        severity(crushed, 2 * _CLIPPED_SCALE),
    )


def contrast_loss(shots: Shots) -> np.ndarray:
    """[F] severity of a fall of contrast, but for what darkening explains: a gain scales both alike."""
    return severity(-contrast_drift(shots), _CONTRAST_OCTAVES)


def contrast_drift(shots: Shots) -> np.ndarray:
    """[F] octaves by which contrast changed beyond what a change of gain explains.

    By standard deviation or by the spread of the middle 80 % of luma, whichever changed less: a lamp that leaves the
    picture takes deviation with it, and leaves the spread.
    """
    series = shots.series
    deviation, spread = (shots.drift(np.log2(values + _LEAST)) for values in (series.contrast, series.spread))
    contrast = np.where(np.abs(deviation) < np.abs(spread), deviation, spread)
    return contrast - np.minimum(shots.drift(np.log2(series.luminance + _LEAST)), 0)


def luminance_drift(shots: Shots) -> np.ndarray:
    """[F] drift of luma that the picture as a whole shows, and that happened to what is seen and not by a pan."""
    tiles = shared_by_the_picture(shots.drift(shots.series.tiles @ LUMA))
    return agreed(tiles, shots.light_drift() @ LUMA)


def shared_by_the_picture(drift: np.ndarray) -> np.ndarray:
    """[F, K, ...] to [F, ...]: the mean of the middle half of the tiles; what comes and goes does not move it."""
    ordered = np.sort(drift, axis=1)
    quarter = drift.shape[1] // 4
    return ordered[:, quarter : drift.shape[1] - quarter].mean(axis=1)


def agreed(level: np.ndarray, followed: np.ndarray) -> np.ndarray:
    """[F] the drift of a level, as far as following what moves bears it out.

    A pan to a darker place changes the level alone, and the small errors of following add up to a drift that the level
    does not show; damage is in both. Half as much again is granted, because fast motion is followed in part.
    """
    followed = _GRANTED * followed
    return np.where(level > 0, np.clip(followed, 0, np.abs(level)), -np.clip(-followed, 0, np.abs(level)))


_CAST_SCALE: Final = 16.0
"""In units of CIE Lab."""


def colour_cast(shots: Shots) -> np.ndarray:
    """[F] severity of the chroma that all parts of the picture gained alike, in CIE Lab."""
    return severity(cast_length(shots), _CAST_SCALE)


def cast_length(shots: Shots) -> np.ndarray:
    """[F] length of the shift in the a, b plane that a change of exposure or contrast does not explain.

    A gain of light scales a, b and L + 16 alike, by the definition of CIE Lab; a loss of contrast scales a and b. Of
    the shift of the tiles, what counts is borne out by following what moves, see light.agreed.
    """
    flattening = np.exp2(np.minimum(contrast_drift(shots), 0))[:, None]
    lab = cielab(shots.series.tiles)
    before = lab - shots.drift(lab)
    shift = shared_by_the_picture(_unexplained(lab, before, flattening))
    tiles = shots.series.tiles.mean(axis=1, keepdims=True)
    without_drift = cielab((tiles - shots.light_drift()[:, None]).clip(0, 1))
    followed = _unexplained(cielab(tiles), without_drift, flattening)[:, 0]
    length = np.linalg.norm(shift, axis=1)
    along = (shift * followed).sum(axis=1) / np.maximum(length, JUST_NOTICEABLE)
    return agreed(length, along)


def _unexplained(lab: np.ndarray, before: np.ndarray, flattening: np.ndarray) -> np.ndarray:
    """[F, K, Lab] twice to [F, K, ab]: the shift beyond what the change of light, and of contrast [F, 1], explains."""
    gain = (lab[..., 0] + 16) / (before[..., 0] + 16).clip(1.0)
    return lab[..., 1:] - (gain * flattening)[..., None] * before[..., 1:]


_BLUR_OCTAVES: Final = 1.2
_NOISE_SCALE: Final = 0.03
# Motion blurs for moments, and a compressed video is sharper in its key frames.
_WINDOW_SECONDS: Final = 0.5
_LEAST_SHARPNESS: Final = 0.03


def blur(shots: Shots) -> np.ndarray:
    """[F] severity of a fall of sharpness."""
    return severity(-_steady_drift(shots, np.log2(shots.series.sharpness + _LEAST_SHARPNESS)), _BLUR_OCTAVES)


def noise(shots: Shots) -> np.ndarray:
    """[F] severity of a rise of noise."""
    return severity(_steady_drift(shots, shots.series.noise), _NOISE_SCALE)


def _steady_drift(shots: Shots, values: np.ndarray) -> np.ndarray:
    width = window_frames(_WINDOW_SECONDS, shots.series.rate)
    return windowed_median(shots.drift(values), width)


_FLICKER_SCALE, _FLICKER_POWER = 0.03, 2.5
"""Of the range of luma. Between 2 and 20 changes a second the eye notices about half a hundredth (de Lange, 1958)."""
_REACHES: Final = (1, 2, 4)
"""In frames: each is most sensitive to a period of twice its length."""
_PERIODS: Final = 4


def flicker(shots: Shots) -> np.ndarray:
    """[F] severity of the flicker of mean luma."""
    return severity(flicker_amplitude(shots), _FLICKER_SCALE, _FLICKER_POWER)


def flicker_amplitude(shots: Shots) -> np.ndarray:
    """[F] amplitude of what goes up and down at least twice a second, as a part of the range of luma.

    For periods of about 2, 4 and 8 frames: how far each frame is from the mean of the two that lie a reach before and
    after it. The median over some periods tells flicker, which is always there, from a step or a flash, which is not; a
    ramp is in the mean of its neighbours. Between the frames that were measured the extremes of luma were kept.
    """
    luminance = shots.drift(shots.series.luminance)
    amplitude = windowed_median(shots.series.swing, 2 * _PERIODS + 1) / 2
    for reach in _REACHES:
        if len(luminance) <= 2 * reach:
            break
        padded = np.pad(luminance, reach, mode="reflect", reflect_type="odd")
        away = np.abs(luminance - (padded[: -2 * reach] + padded[2 * reach :]) / 2) / 2
        amplitude = np.maximum(amplitude, windowed_median(away, 2 * reach * _PERIODS + 1))
    return amplitude


# Of the usual change from frame to frame: what a codec leaves of equal frames is less, slow motion is more.
_STILL_SHARE: Final = 0.12
# Of the range of luma: below a twentieth of a grey level nothing moves, whatever is usual.
_NO_CHANGE: Final = 0.05 / 255
# A video that never changes by more than a fifth of a grey level has no motion to lose.
_LEAST_MOTION: Final = 0.2 / 255
_MEMORY_SECONDS: Final = 10.0
# Of the motion remembered, that of the quieter moments: flicker or noise that ends must not pass for a freeze.
_QUIET_PERCENTILE: Final = 30

_LEAST_SECONDS: Final = 0.3
_PLAIN_SECONDS: Final = 1.0
_WORST: Final = 0.85
# Motion that stops is whole up to its last frame; three, because drawn motion is held, and a codec takes a frame or two
# to come to rest itself.
_LAST_FRAMES: Final = 3
# The largest of the last changes against what is left, and against the usual one.
_DROP: Final = 7.5
_STOPPED_SHARE: Final = 0.45
# Of the usual motion of the half second before: what takes six frames or more to leave the picture is below this then.
_UNBROKEN_SHARE: Final = 0.8
_COURSE_SECONDS: Final = 0.5

# Rest is pardoned at first, and is never as bad as a picture that was stopped.
_PARDONED_SECONDS: Final = 2.0
_LIFELESS_SECONDS: Final = 6.0
_LIFELESS_WORST: Final = 0.35
_REST_WINDOW_SECONDS: Final = 0.5
# A video that moved for a quarter of its first seconds had motion.
_LIVELY_PERCENTILE: Final = 75


def freeze(shots: Shots) -> np.ndarray:
    """[F] severity of standing still: of motion that stops, or of a video that has come to rest and stays there.

    A still scene is no freeze: it takes motion before it. A stop counts by its length, fully from one second on. Motion
    that dies away, or leaves the picture little by little, is a rest, which a video may have: it counts from two
    seconds on, and in full, which is less than half of a stop, from six.
    """
    return np.maximum(_stopped(shots.series), _come_to_rest(shots.series))


def _stopped(series: FrameSeries) -> np.ndarray:
    """[F] severity of standing still from one frame to the next."""
    severity = np.zeros(len(series))
    still, usual = _still(series)
    for first, last in true_runs(still):
        seconds = (last - first) / series.rate
        if seconds >= _LEAST_SECONDS and _is_abrupt(series, first, last, usual[first]):
            severity[first:last] = _WORST * min(1.0, seconds / _PLAIN_SECONDS)
    return severity


def _come_to_rest(series: FrameSeries) -> np.ndarray:
    """[F] severity of hardly any change, for seconds, in a video whose first seconds had it.

    Change is a mean over half a second: drawn motion may be held for some frames.
    """
    severity = np.zeros(len(series))
    change = windowed_mean(series.difference, window_frames(_REST_WINDOW_SECONDS, series.rate))
    first_seconds = series.difference[: window_frames(_MEMORY_SECONDS, series.rate)]
    first_change = float(np.percentile(first_seconds, _LIVELY_PERCENTILE))
    for first, last in true_runs(change < min(_LEAST_MOTION, _STILL_SHARE * first_change)):
        beyond = (last - first) / series.rate - _PARDONED_SECONDS
        share = np.clip(beyond / (_LIFELESS_SECONDS - _PARDONED_SECONDS), 0, 1)
        severity[first:last] = _LIFELESS_WORST * share
    return severity


def _still(series: FrameSeries) -> tuple[np.ndarray, np.ndarray]:
    """[F] whether a frame is the one before, as far as a codec lets them be equal; [F] the usual change so far."""
    still, usual = np.zeros(len(series), dtype=bool), np.zeros(len(series))
    remembered: deque[float] = deque(maxlen=window_frames(_MEMORY_SECONDS, series.rate))
    for frame, difference in enumerate(series.difference):
        if remembered:
            usual[frame] = np.percentile(remembered, _QUIET_PERCENTILE)
            still[frame] = difference < max(_NO_CHANGE, _STILL_SHARE * usual[frame])
        if difference > _LEAST_MOTION and not still[frame]:
            remembered.append(float(difference))
    return still, usual


def _is_abrupt(series: FrameSeries, first: int, last: int, usual: float) -> bool:
    """Return whether motion stopped from one frame to the next, and was whole until then."""
    course = series.difference[max(1, first - window_frames(_COURSE_SECONDS, series.rate, least=3)) : first]
    before = course[-_LAST_FRAMES:].max()
    left = max(_NO_CHANGE, float(np.median(series.difference[first:last])))
    is_drop = before > min(_DROP * left, _STOPPED_SHARE * usual)
    return bool(is_drop and before > _UNBROKEN_SHARE * np.median(course))
