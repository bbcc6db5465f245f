"""The reader learns what scenes show, from pixels alone, and says so in the words of the scenes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.data.scenes import ATTRIBUTES, Attributes, Motion, render, sample_scene
from training.reader import (
    AttributeReader,
    ReaderConfig,
    Reading,
    accuracy,
    load_reader,
    read,
    reader_batch,
    reader_loss,
    roughen,
    truth,
)
from training.reader.model import looks_from_unit, looks_to_unit

SMALL = ReaderConfig(widths=(8, 8, 8), track=16)


@pytest.fixture
def reader() -> AttributeReader:
    torch.manual_seed(0)
    return AttributeReader(SMALL).eval()


def test_a_batch_is_a_pure_function_of_seed_and_step() -> None:
    one, same, other = (reader_batch(3, step, batch=2, size=32) for step in (4, 4, 5))
    assert torch.equal(one.video, same.video) and torch.equal(one.labels, same.labels)
    assert one.video.shape[2] != other.video.shape[2]
    assert not torch.equal(one.looks, other.looks)


def test_labels_and_looks_tell_the_truth() -> None:
    specs = [sample_scene(0, index) for index in range(8)]
    told = truth(specs)
    for spec, labels, looks in zip(specs, told["labels"], told["looks"], strict=True):
        assert Attributes.from_indices(tuple(labels.tolist())) == spec.attributes
        assert looks_from_unit(looks).tolist() == pytest.approx([spec.exposure, spec.tint], abs=1e-5)
    assert told["looks"].abs().max() <= 1
    assert looks_to_unit(torch.tensor([0.8, 1.0])).tolist() == pytest.approx([-1.0, 1.0], abs=1e-5)


def test_roughening_is_mild_and_differs_from_call_to_call() -> None:
    video = render(sample_scene(0, 0), 0, 3, 64, 64)
    generator = torch.Generator().manual_seed(0)
    errors = [(roughen(video, generator) - video).square().mean().sqrt().item() for _ in range(8)]
    assert len(set(errors)) == 8
    assert 0.005 < min(errors) and max(errors) < 0.2


def test_roughening_leaves_its_input_alone() -> None:
    video = render(sample_scene(0, 0), 0, 2, 32, 32)
    before = video.clone()
    roughen(video, torch.Generator().manual_seed(1))
    assert torch.equal(video, before)


@pytest.mark.parametrize("shape", [(2, 3, 17, 64, 64), (1, 3, 81, 64, 64), (1, 3, 30, 96, 160), (1, 3, 18, 32, 32)])
def test_any_length_and_size_is_read(shape: tuple[int, ...], reader: AttributeReader) -> None:
    output = reader(torch.randn(shape))
    assert output.looks.shape == (shape[0], 2)
    assert {name: logits.shape for name, logits in output.logits.items()} == {
        name: (shape[0], len(choices)) for name, choices in ATTRIBUTES.items()
    }


def test_reading_does_not_depend_on_the_batch(reader: AttributeReader) -> None:
    videos = render([sample_scene(0, index) for index in range(5)], 0, 17, 64, 64)
    together, apart = read(reader, videos), read(reader, videos, batch=2)
    assert [reading.attributes for reading in together] == [reading.attributes for reading in apart]
    for one, other in zip(together, apart, strict=True):
        assert one.exposure == pytest.approx(other.exposure, abs=1e-4)
        assert all(0 < share <= 1 for share in one.confidence.values())


def test_too_short_a_video_is_refused(reader: AttributeReader) -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 3, 16, 64, 64\).*F at least 17"):
        reader(torch.zeros(1, 3, 16, 64, 64))


def test_accuracy_counts_each_attribute_and_all_of_them() -> None:
    wanted = [sample_scene(0, index).attributes for index in range(4)]
    readings = [Reading(attributes=named, confidence={}, exposure=1.0, tint=0.0) for named in wanted]
    assert set(accuracy(readings, wanted).values()) == {1.0}
    indices = list(wanted[0].indices())
    indices[0] = (indices[0] + 1) % len(ATTRIBUTES["place"])
    wrong = Reading(attributes=Attributes.from_indices(tuple(indices)), confidence={}, exposure=1.0, tint=0.0)
    shares = accuracy([wrong, *readings[1:]], wanted)
    assert shares["place"] == shares["all"] == 0.75 and shares["speed"] == 1.0
    with pytest.raises(ValueError, match="3 readings for 4 expectations"):
        accuracy(readings[1:], wanted)


def test_saved_weights_come_back_bit_for_bit(reader: AttributeReader, tmp_path: Path) -> None:
    path = tmp_path / "reader.safetensors"
    weights = {name: weight.contiguous() for name, weight in reader.state_dict().items()}
    save_file(weights, path, metadata={"sfpp": json.dumps(reader.header())})
    loaded = load_reader(path)
    video = torch.randn(1, 3, 17, 64, 64)
    assert loaded.config == SMALL and torch.equal(loaded(video).looks, reader(video).looks)
    save_file(weights, path, metadata={"sfpp": json.dumps({"kind": "vae"})})
    with pytest.raises(ValueError, match="holds 'vae'; a file of kind 'reader'"):
        load_reader(path)


def test_every_weight_is_trained(reader: AttributeReader) -> None:
    batch = reader_batch(0, 0, batch=2, size=64)
    total, parts = reader_loss(reader(batch.video), batch)
    total.backward()
    assert set(parts) == {*ATTRIBUTES, "looks"}
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in reader.parameters())


def test_the_way_of_motion_is_learnt_from_clips_that_differ_in_nothing_else() -> None:
    """A video and the same video backwards have the same frames; only a reader of motion can tell left from right."""
    torch.manual_seed(0)
    reader = AttributeReader(ReaderConfig(widths=(16, 24, 32), track=32))
    optimizer = torch.optim.Adam(reader.parameters(), lr=3e-3)
    specs = [sample_scene(1, index) for index in range(40)]
    specs = [spec for spec in specs if spec.attributes.motion is not Motion.BOUNCE][:8]
    forward = render(specs, 5, 17, 64, 64)
    videos = torch.cat([forward, forward.flip(2)])
    forwards = torch.tensor([spec.attributes.motion is Motion.RIGHT for spec in specs])
    labels = torch.cat([forwards, ~forwards]).long()
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(reader(videos).logits["motion"], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (reader(videos).logits["motion"].argmax(dim=1) == labels).float().mean() > 0.9
