"""How far a set of films is from the truth as a whole: what is missing, too frequent, or too much alike.

Axes: N window, D feature.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

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
