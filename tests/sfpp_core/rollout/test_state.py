"""A state file that somebody or something has changed is refused on loading, in a sentence, and not while sampling."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sfpp_core.rollout.config import RolloutConfig
from sfpp_core.rollout.rollout import Rollout
from sfpp_core.rollout.state import HEADER, RolloutState, StateFileError, load_state, save_state
from sfpp_core.sealed_file import CHECKSUM, write_sealed
from tests.helpers.models import LATENT_HEIGHT, LATENT_WIDTH, TINY, random_text, random_transformer
from tests.helpers.processes import exit_codes, start

ALIGNMENT = 64
"""Bytes: where PyTorch's memory for tensors begins, on a CPU."""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shape = (1, TINY.in_channels, LATENT_HEIGHT, LATENT_WIDTH)
    config = RolloutConfig(chunk=3, window=6, steps=(1000.0,))
    state = RolloutState(config=config, seed=1, model_id="random", shape=shape)
    rollout = Rollout(random_transformer(), state, random_text())
    with torch.inference_mode():
        list(rollout.run(2))
    path = tmp_path_factory.mktemp("states") / "video.safetensors"
    save_state(rollout.keep_cache(), path)
    return path


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_video_lies_in_memory_as_one_that_was_made_there(chunks: int, tmp_path: Path) -> None:
    """Matrix products round by where tensors lie; in a file that is anywhere."""
    config = RolloutConfig(chunk=3, window=6, steps=(1000.0,))
    shape = (1, TINY.in_channels, LATENT_HEIGHT, LATENT_WIDTH)
    rollout = Rollout(
        random_transformer(), RolloutState(config=config, seed=1, model_id="random", shape=shape), random_text()
    )
    with torch.inference_mode():
        list(rollout.run(chunks))
    save_state(rollout.state, tmp_path / "video.safetensors")
    state = load_state(tmp_path / "video.safetensors")
    for tensor in (*state.texts, *(chunk.latents for chunk in state.chunks)):
        assert tensor.data_ptr() % ALIGNMENT == 0


def described(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[HEADER])


def refusal(saved: Path, folder: Path, description: dict[str, Any] | str, tensors: dict[str, Tensor]) -> str:
    """The sentence for the saved file with these entries and tensors in place of its own, and the right checksum."""
    path = folder / "changed.safetensors"
    content = {name: tensor.clone() for name, tensor in (load_file(saved) | tensors).items()}
    if isinstance(description, str):
        save_file(content, path, {HEADER: description})
    else:
        write_sealed(path, content, HEADER, described(saved) | description)
    with pytest.raises(StateFileError, match=r"changed\.safetensors is a damaged state") as caught:
        load_state(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"chunks": [{"num_frames": 9, "text": 0}, {"num_frames": -3, "text": 0}]}, "num_frames is 9"),
        ({"chunks": [{"num_frames": 6, "text": 0}, {"num_frames": 0, "text": 0}]}, "num_frames is 0"),
        ({"chunks": [{"num_frames": 6, "text": 0.5}]}, "names a text that is not there"),
        ({"seed": "1"}, "seed is '1'"),
        ({"seed": -1}, "seed is -1"),
        ({"num_given": 7}, "num_given is 7, which is no whole number from 0 to 6"),
        ({"cache": {"num_frames": 7, "num_layers": 3}}, "num_frames is 7"),
        ("[" * 200_000, "nested too deeply"),
    ],
)
def test_descriptions_that_cannot_be(saved: Path, tmp_path: Path, changes: dict[str, Any] | str, problem: str) -> None:
    assert problem in refusal(saved, tmp_path, changes, {})


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("latents", Tensor.half, "its latents are torch.float16"),
        ("latents", lambda latents: latents[0], "its latents are torch.float32 of shape"),
        ("latents", lambda latents: latents * torch.inf, "not finite"),
        ("text.0", lambda text: text * torch.nan, "text 0 holds values that are not finite"),
        ("text.0", lambda text: text[0], "text 0 of shape (5, 20) does not fit"),
        ("text.0", lambda text: text.expand(3, -1, -1), "text 0 of shape (3, 5, 20) does not fit"),
        # One token would be spread over the whole window without a word.
        ("cache.0.keys", lambda keys: keys[:, :1], "its cache is of another size"),
    ],
)
def test_tensors_that_do_not_fit(
    saved: Path, tmp_path: Path, name: str, change: Callable[[Tensor], Tensor], problem: str
) -> None:
    assert problem in refusal(saved, tmp_path, {}, {name: change(load_file(saved)[name])})


@pytest.fixture(scope="module")
def saved_in_int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = RolloutState(
        config=RolloutConfig(chunk=3, window=6, steps=(1000.0,)),
        seed=1,
        model_id="random",
        shape=(1, TINY.in_channels, LATENT_HEIGHT, LATENT_WIDTH),
        cache_form="int8",
    )
    rollout = Rollout(random_transformer(), state, random_text())
    with torch.inference_mode():
        list(rollout.run(2))
    path = tmp_path_factory.mktemp("states") / "video.safetensors"
    save_state(rollout.keep_cache(), path)
    return path


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cache.0.keys", Tensor.half),
        ("cache.1.values", lambda values: values[:, :, :1]),
        # One scale would be spread over all frames, or all tokens, without a word.
        ("cache.2.key_scales", lambda scales: scales[:, :1]),
        ("cache.0.value_scales", lambda scales: scales[:, :, :1]),
        ("cache.0.value_scales", Tensor.int),
    ],
)
def test_a_cache_that_is_not_in_its_videos_form(
    saved_in_int8: Path, tmp_path: Path, name: str, change: Callable[[Tensor], Tensor]
) -> None:
    changed = {name: change(load_file(saved_in_int8)[name])}
    assert "its cache is not in the form int8" in refusal(saved_in_int8, tmp_path, {}, changed)


def test_a_video_whose_form_is_another_than_its_caches(saved: Path, saved_in_int8: Path, tmp_path: Path) -> None:
    assert "its cache is not in the form computed" in refusal(saved_in_int8, tmp_path, {"cache_form": "computed"}, {})
    assert "key_scales" in refusal(saved, tmp_path, {"cache_form": "int8"}, {})
    assert "form is 'int4'; it is one of computed, fp8, int8" in refusal(saved, tmp_path, {"cache_form": "int4"}, {})
    assert "form is None" in refusal(saved, tmp_path, {"cache_form": None}, {})


def test_a_video_of_before_there_were_forms_is_as_computed(saved: Path, tmp_path: Path) -> None:
    description = described(saved) | {"version": 1}
    del description["cache_form"], description[CHECKSUM]
    save_file(load_file(saved), tmp_path / "old.safetensors", {HEADER: json.dumps(description)})
    assert load_state(tmp_path / "old.safetensors").cache_form == "computed"


class Marker:
    """What a hostile file would do when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize(
    "write",
    [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))],
    ids=["torch.save", "pickle"],
)
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, write: Callable[[object, Path], object]) -> None:
    touched, path = tmp_path / "touched", tmp_path / "video.sfpp.safetensors"
    write({"latents": torch.zeros(1), "run": Marker(touched)}, path)
    with pytest.raises(StateFileError, match=r"video\.sfpp\.safetensors is a damaged state"):
        load_state(path)
    assert not touched.exists()
    pickle.loads(pickle.dumps(Marker(touched)))
    assert touched.exists(), "the file would have done nothing, so this test shows nothing"


def test_no_flipped_bit_is_another_video(saved: Path, tmp_path: Path) -> None:
    """Anywhere in the file: the header with its description, the video, the prompt, the cache."""
    whole, expected = saved.read_bytes(), load_state(saved)
    header_bytes = 8 + int.from_bytes(whole[:8], "little")
    draw = random.Random(20)
    places = [draw.randrange(header_bytes) for _ in range(200)]
    places += [draw.randrange(header_bytes, len(whole)) for _ in range(100)]
    path = tmp_path / "flipped.safetensors"
    refused = 0
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :])
        try:
            state = load_state(path)
        except StateFileError:
            refused += 1
            continue
        # Blanks that pad the header may be flipped, and say nothing.
        assert torch.equal(state.latents, expected.latents) and state.config == expected.config
        assert (state.seed, state.model_id, state.num_given) == (expected.seed, expected.model_id, expected.num_given)
    assert refused > 280


@pytest.mark.parametrize("version", [1, 2])
def test_states_of_earlier_versions_have_no_checksum_and_load(saved: Path, tmp_path: Path, version: int) -> None:
    path = tmp_path / "earlier.safetensors"
    entries = {name: value for name, value in described(saved).items() if name != CHECKSUM} | {"version": version}
    save_file(load_file(saved), path, {HEADER: json.dumps(entries)})
    assert torch.equal(load_state(path).latents, load_state(saved).latents)


def test_a_state_of_this_version_without_its_checksum_is_refused(saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "without.safetensors"
    entries = {name: value for name, value in described(saved).items() if name != CHECKSUM}
    save_file(load_file(saved), path, {HEADER: json.dumps(entries)})
    with pytest.raises(StateFileError, match="its checksum is missing"):
        load_state(path)


@pytest.mark.parametrize(
    "config",
    [
        {"chunk": 65},
        {"window": 1025},
        {"window": True},
        {"sink": 3.0},
        {"steps": "1000"},
        {"steps": [1000.0, True]},
        {"steps": [1000.0 - 0.1 * number for number in range(1001)]},
        {"shift": "5"},
        {"shift": 1e300},
        {"context_noise": None},
        {"independent_first": 1},
        {"first_chunk_steps": {"1000": 1}},
    ],
    ids=lambda config: "".join(config),
)
def test_settings_that_no_model_has_are_refused(saved: Path, tmp_path: Path, config: dict[str, Any]) -> None:
    (name,) = config
    assert f"({name} is" in refusal(saved, tmp_path, {"config": described(saved)["config"] | config}, {})


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="another user can be had by root alone")
def test_a_file_that_may_not_be_read_is_not_called_missing(saved: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        path = folder / "secret.safetensors"
        path.write_bytes(saved.read_bytes())
        folder.chmod(0o755)
        path.chmod(0o600)
        assert exit_codes([start(load_as_nobody, path)]) == [0]
    finally:
        shutil.rmtree(folder)


def load_as_nobody(path: Path) -> None:
    """What another user's process sees."""
    os.setuid(65534)
    with pytest.raises(PermissionError, match=r"secret\.safetensors may not be read by this program"):
        load_state(path)
