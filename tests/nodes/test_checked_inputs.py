"""Every input of every node is looked at when a workflow is queued: before a model is loaded, in one sentence."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from sfpp_client import NodeFailed, WorkflowRefused
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph, Studio

OWN_CHECK = {("SFPPLoadState", "state_file"): "is not among the saved states"}


@pytest.fixture(scope="module")
def studio(comfy: Comfy) -> Studio:
    return Studio(comfy)


@pytest.fixture(scope="module")
def declared(comfy: Comfy) -> dict[str, dict[str, list[Any]]]:
    """Of our nodes: inputs by name, each with its type or choices and its options."""
    info = comfy.client.object_info()
    return {
        name: {**node["input"].get("required", {}), **node["input"].get("optional", {})}
        for name, node in info.items()
        if name.startswith("SFPP")
    }


def refused(studio: Studio, class_type: str, name: str, value: object, declared: dict[str, list[Any]]) -> str:
    """The sentence for a node whose other inputs are right; all nodes behind it are missing, so nothing could run."""
    graph = Graph()
    links = {"MODEL": 0, "CLIP": 1, "VAE": 2}
    tiny = graph.add("SFPPLoadTiny")
    inputs: dict[str, object] = {}
    for each, (kind, *options) in declared.items():
        if isinstance(kind, str) and kind in links:
            inputs[each] = [tiny, links[kind]]
        elif options and "default" in options[0]:
            inputs[each] = options[0]["default"]
    node = graph.add(class_type, **inputs | {name: value})
    graph.add("PreviewAny", source=[node, 0])
    # As other programs send it: our client refuses what is no JSON, such as NaN, itself.
    answer = requests.post(f"{studio.server_url}/prompt", data=json.dumps({"prompt": graph.workflow}), timeout=60)
    assert answer.status_code == 400, answer.text
    errors = [error for node in answer.json()["node_errors"].values() for error in node["errors"]]
    return "\n".join(f"{error['message']}: {error['details']}" for error in errors)


def of_kind(declared: dict[str, dict[str, list[Any]]], *kinds: str) -> list[tuple[str, str, list[Any]]]:
    found = [
        (class_type, name, spec)
        for class_type, inputs in declared.items()
        for name, spec in inputs.items()
        if (spec[0] if isinstance(spec[0], str) else "COMBO") in kinds
    ]
    assert found
    return found


def test_a_choice_is_one_of_its_list(studio: Studio, declared: dict[str, dict[str, list[Any]]]):
    for class_type, name, _ in of_kind(declared, "COMBO"):
        for value in ("H264", "abc", ""):
            said = refused(studio, class_type, name, value, declared[class_type])
            assert OWN_CHECK.get((class_type, name), f"{name} is '{value}'; it must be one of") in said


def test_a_number_is_finite_and_within_its_limits(studio: Studio, declared: dict[str, dict[str, list[Any]]]):
    for class_type, name, (kind, options) in of_kind(declared, "INT", "FLOAT"):
        values = [options["max"] + 1, options["min"] - 1]
        values += [math.nan, math.inf, -math.inf] if kind == "FLOAT" else []
        for value in values:
            said = refused(studio, class_type, name, value, declared[class_type])
            assert f"{name} is {value:g}" in said or f"{name} is {value}" in said, (class_type, name, value, said)


def test_what_is_to_be_wired_is_no_constant(studio: Studio, declared: dict[str, dict[str, list[Any]]]):
    widgets = {"COMBO", "INT", "FLOAT", "STRING", "BOOLEAN"}
    kinds = {spec[0] for inputs in declared.values() for spec in inputs.values() if isinstance(spec[0], str)} - widgets
    for class_type, name, _ in of_kind(declared, *kinds):
        for value in (3, "model.safetensors"):
            said = refused(studio, class_type, name, value, declared[class_type])
            assert f"{name} is {value!r}, but it has no widget: wire it from a node that makes" in said


def test_one_mistake_is_one_sentence(studio: Studio, declared: dict[str, dict[str, list[Any]]]):
    said = refused(studio, "SFPPSampler", "width", 100, declared["SFPPSampler"])
    assert said.count("width is 100; it must be a positive multiple of 16 pixels. Try 96.") == 1


@pytest.fixture
def output(comfy: Comfy) -> Iterator[Path]:
    """The output folder, in which what a test puts is removed."""
    before = set(comfy.server.output_directory.iterdir())
    yield comfy.server.output_directory
    for path in set(comfy.server.output_directory.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("prefix", "sentence"),
    [
        ("a" * 201, "a name of more than 200 bytes"),
        ("/".join(["deep"] * 800), "too deep"),
        ("file.txt/film", "but file.txt is a file"),
        ("sfpp_spool/film", "the folder of kept chunks, which is cleaned"),
        ("SFPP_Spool/a/film", "the folder of kept chunks"),
        *((f"video/{name}", "a name that Windows has no files of") for name in ("CON", "nul.txt", "a:b", "a?", "end.")),
        ("Com1/film", "a name that Windows has no files of"),
        ("../film", "outside the output folder"),
    ],
)
@pytest.mark.parametrize("class_type", ["SFPPDecodeToVideo", "SFPPSaveState"])
def test_a_name_that_cannot_be_written_is_refused(
    studio: Studio, output: Path, declared: dict[str, dict[str, list[Any]]], class_type: str, prefix: str, sentence: str
):
    (output / "file.txt").touch()
    assert sentence in refused(studio, class_type, "filename_prefix", prefix, declared[class_type])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_refused(
    studio: Studio, output: Path, declared: dict[str, dict[str, list[Any]]]
):
    (output / "locked").mkdir(mode=0o555)
    said = refused(studio, "SFPPDecodeToVideo", "filename_prefix", "locked/film", declared["SFPPDecodeToVideo"])
    assert "but nothing may be written to" in said


def test_dates_in_a_name_are_filled_in_on_the_server(studio: Studio):
    graph = Graph()
    model, clip, vae = graph.tiny()
    video, state = graph.video(model, graph.text(clip), seed=91)
    prefix = "%date:yyyy%/%date:yy-M-d%_%date:hh%_film"
    decode = graph.add("SFPPDecodeToVideo", latent=video, vae=vae, filename_prefix=prefix, crf=30)
    save = graph.add("SFPPSaveState", state=state, filename_prefix=prefix)
    before = time.localtime()
    result = studio.run(graph)
    expected = {
        f"{now.tm_year % 100:02}-{now.tm_mon}-{now.tm_mday}_{now.tm_hour:02}_film" for now in (before, time.localtime())
    }
    for file in (file for file in result.files() if file.node_id in (decode, save)):
        assert file.subfolder == time.strftime("%Y")
        assert any(file.filename.startswith(name) for name in expected), file.filename


def test_a_choice_that_is_wired_in_is_refused_before_sampling(studio: Studio):
    graph = Graph()
    model, clip, _ = graph.tiny()
    wired = [graph.add("PrimitiveString", value="abc"), 0]
    graph.keep(graph.video(model, graph.text(clip), cache_storage=wired)[0])
    with pytest.raises((NodeFailed, WorkflowRefused)) as caught:
        studio.run(graph)
    assert "cache_storage" in str(caught.value) and ("abc" in str(caught.value) or "mismatch" in str(caught.value))
