"""The losses of the autoencoder and of the reader against their formulas, written out in NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tests.helpers.case_configs import config_of
from tests.helpers.network_calls import calls_of
from tests.helpers.normal_law import assert_standard_normal
from tests.helpers.stage_cases import HERE, write_files
from training.causal_init.flow import edge_loss, kl_to_unit_normal
from training.data.scenes import ATTRIBUTES, HISTORY_RANGES, SceneSpec, render, sample_scene
from training.reader import ReaderBatch, reader_loss, truth
from training.reader.batches import LOOKS_WEIGHT
from training.reader.model import ReaderOutput
from training.stages import reader, vae
from training.stages.reader import ReaderTask
from training.stages.vae import VAETask

Numbers = NDArray[np.float64]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("here")
    write_files(folder)
    return folder


def exact(tensor: Tensor) -> Numbers:
    return tensor.detach().double().numpy()


def slopes(value: Callable[[Numbers], float], at: Numbers, step: float = 1e-6) -> Numbers:
    """Central differences of a formula with respect to every number that it takes."""
    found, point = np.zeros_like(at), at.copy()
    for index in np.ndindex(*at.shape):
        ends = []
        for sign in (1, -1):
            point[index] = at[index] + sign * step
            ends.append(value(point))
        point[index] = at[index]
        found[index] = (ends[0] - ends[1]) / (2 * step)
    return found


# The autoencoder


def edges(error: Numbers) -> float:
    """How far neighbours' errors are apart: a mean along time, height and width each, where there are neighbours, and
    the mean of these.
    """
    times = error[:, :, 1:] - error[:, :, :-1]
    rows, columns = error[..., 1:, :] - error[..., :-1, :], error[..., 1:] - error[..., :-1]
    means = [np.abs(difference).mean() for difference in (times, rows, columns) if difference.size]
    return sum(means) / len(means)


def divergence(mean: Numbers, logvar: Numbers) -> float:
    """Of N(mean, exp(logvar)) from N(0, 1): (mean^2 + variance - 1 - log variance) / 2, averaged."""
    return float(np.mean((mean**2 + np.exp(logvar) - 1 - logvar) / 2))


@pytest.mark.parametrize("frames", [1, 5])
def test_edges_and_their_gradient_are_the_formulas(frames: int) -> None:
    """Of sides so different that an average over all neighbours would be another number."""
    torch.manual_seed(0)
    video, target = torch.rand(2, 3, frames, 2, 7, requires_grad=True), torch.rand(2, 3, frames, 2, 7)
    loss = edge_loss(video, target)
    assert loss.item() == pytest.approx(edges(exact(video) - exact(target)), rel=1e-6)
    loss.backward()
    wanted = slopes(lambda each: edges(each - exact(target)), exact(video))
    np.testing.assert_allclose(exact(video.grad), wanted, atol=1e-7)


def test_the_divergence_and_its_gradient_are_the_formulas() -> None:
    torch.manual_seed(0)
    mean, logvar = (torch.randn(2, 3, 2, 2, requires_grad=True) for _ in range(2))
    loss = kl_to_unit_normal(mean, logvar)
    assert loss.item() == pytest.approx(divergence(exact(mean), exact(logvar)), rel=1e-6)
    loss.backward()
    np.testing.assert_allclose(exact(mean.grad), exact(mean) / mean.numel(), rtol=1e-5)
    np.testing.assert_allclose(exact(logvar.grad), (np.exp(exact(logvar)) - 1) / 2 / mean.numel(), rtol=1e-4, atol=1e-8)


def vae_task(here: Path, *words: str) -> VAETask:
    """On the autoencoder of random weights, with posteriors narrow and wide, and pixels beyond [-1, 1]."""
    phases = "phases=[{start: 0, batch: 3, frames: 9, crop: 24}]"
    task = VAETask(config_of("vae", vae.VAEStageConfig, here, f"init={HERE}/vae.safetensors", phases, *words))
    with torch.no_grad():
        task.model.conv1.bias[16:] += torch.linspace(-3, 1, 16)
        task.model.decoder.head[-1].weight.mul_(10)
    return task


@pytest.mark.parametrize(
    ("squared", "edge", "kl"), [(0.7, 0.3, 0.2), (0.0, 1.0, 1e-4), (0.0, 0.0, 0.0), (2.0, 0.0, 0.0), (0.0, 0.0, 3.0)]
)
def test_the_autoencoders_loss_is_the_weighted_sum_of_its_parts(
    here: Path, squared: float, edge: float, kl: float
) -> None:
    task = vae_task(here, f"squared_weight={squared}", f"edge_weight={edge}", f"kl_weight={kl}")
    batch = task.batch(1)
    with calls_of(task.model.conv1) as encoded, calls_of(task.model.decoder) as decoded:
        loss = task.loss(batch, 1)
    mean, logvar = np.split(exact(encoded[0].output), 2, axis=1)
    pictures = exact(decoded[0].output)
    error = pictures - exact(batch.video)
    assert np.abs(pictures).max() > 1.5, "they are judged as they are, not clamped"
    parts = {
        "absolute": np.abs(error).mean(),
        "squared": (error**2).mean(),
        "edges": edges(error),
        "kl": divergence(mean, logvar),
    }
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(parts, rel=1e-5)
    expected = parts["absolute"] + squared * parts["squared"] + edge * parts["edges"] + kl * parts["kl"]
    assert loss.total.item() == pytest.approx(expected, rel=1e-5)


def test_what_the_autoencoder_decodes_is_a_sample_of_its_posterior(here: Path) -> None:
    """Mean and deviation times standard normal noise."""
    task, noises = vae_task(here), []
    for step in range(4):
        with calls_of(task.model.conv1) as encoded, calls_of(task.model.conv2) as sampled, torch.no_grad():
            task.loss(task.batch(step), step)
        mean, logvar = encoded[0].output.double().chunk(2, dim=1)
        noises.append((sampled[0].inputs[0].double() - mean) / logvar.exp().sqrt())
    assert_standard_normal(torch.cat(noises))


# The reader


SCENES = [sample_scene(6, index) for index in range(7)]


def class_numbers(name: str) -> NDArray[np.int64]:
    """Of an attribute of the scenes."""
    return np.array([list(ATTRIBUTES[name]).index(getattr(scene.attributes, name)) for scene in SCENES])


def looks_of(scene: SceneSpec) -> list[float]:
    """Exposure and tint, each on a scale from -1 to 1 over its range."""
    ranges = {name: HISTORY_RANGES[name] for name in ("exposure", "tint")}
    return [2 * (getattr(scene, name) - low) / (high - low) - 1 for name, (low, high) in ranges.items()]


def cross_entropy(logits: Numbers, numbers: NDArray[np.int64]) -> float:
    """Mean of -log of the softmax at the true class."""
    top = logits.max(axis=1, keepdims=True)
    log_shares = logits - top - np.log(np.exp(logits - top).sum(axis=1, keepdims=True))
    return float(-log_shares[np.arange(len(numbers)), numbers].mean())


def reader_parts(output: ReaderOutput) -> dict[str, float]:
    parts = {name: cross_entropy(exact(logits), class_numbers(name)) for name, logits in output.logits.items()}
    wanted = np.array([looks_of(scene) for scene in SCENES])
    return parts | {"looks": float(np.mean((exact(output.looks) - wanted) ** 2))}


def batch_of_scenes() -> ReaderBatch:
    return ReaderBatch(video=render(SCENES, 0, 17, 32, 32), **truth(SCENES), samples=range(len(SCENES)))


def test_the_readers_loss_is_its_cross_entropies_and_the_error_of_the_looks(here: Path) -> None:
    torch.manual_seed(0)
    task, batch = ReaderTask(config_of("reader", reader.ReaderStageConfig, here)), batch_of_scenes()
    parts = reader_parts(task.model(batch.video))
    loss = task.loss(batch, 0)
    assert {name: part.item() for name, part in loss.parts.items()} == pytest.approx(parts, rel=1e-5)
    looks = parts.pop("looks")
    assert loss.total.item() == pytest.approx(sum(parts.values()) + LOOKS_WEIGHT * looks, rel=1e-5)


@pytest.mark.parametrize("size", [1.0, 60.0])
def test_the_readers_gradient_is_shares_minus_truth(size: float) -> None:
    """And a logit may be as large as it likes."""
    torch.manual_seed(1)
    count = len(SCENES)
    logits = {name: size * torch.randn(count, len(choices)) for name, choices in ATTRIBUTES.items()}
    looks = torch.randn(count, 2)
    for tensor in (*logits.values(), looks):
        tensor.requires_grad_()
    output = ReaderOutput(logits=logits, looks=looks)
    total, parts = reader_loss(output, batch_of_scenes())
    assert {name: part.item() for name, part in parts.items()} == pytest.approx(reader_parts(output), rel=1e-5)
    total.backward()
    for name, mine in logits.items():
        wanted = np.exp(exact(mine) - exact(mine).max(axis=1, keepdims=True))
        wanted /= wanted.sum(axis=1, keepdims=True)
        wanted[np.arange(count), class_numbers(name)] -= 1
        np.testing.assert_allclose(exact(mine.grad), wanted / count, atol=1e-7, err_msg=name)
    error = exact(looks) - np.array([looks_of(scene) for scene in SCENES])
    np.testing.assert_allclose(exact(looks.grad), LOOKS_WEIGHT * 2 * error / error.size, atol=1e-6)
