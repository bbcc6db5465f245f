"""The artist's page: workflows open, run, show themselves at work and play, in a real browser.

Pictures of what was seen lie in output/screenshots after a run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from packaging.version import Version

from tests.nodes.conftest import Comfy
from tests.nodes.page import ComfyPage, browsing
from tests.nodes.shipped import API, FRAMES, NAMES, NUM_CHUNKS, TINY, page_path, read_api, short_inputs
from tests.nodes.test_earlier_workflows import DATA as EARLIER_DATA
from tests.nodes.test_earlier_workflows import KEPT as EARLIER
from tools.comfy_server import ROOT, ComfyServer, ServerConfig
from tools.pages import PINNED, pages, server_arguments

SCREENSHOTS = ROOT / "output" / "screenshots"
FRAMES_PER_SECOND = 16
CHINESE = {"SFPPSampler": "SFPP 采样器", "SFPPDecodeToVideo": "SFPP 解码为视频"}
TITLE_HEIGHT = 30

KEEPS_TRANSLATIONS = Version("1.33")
"""ComfyUI 0.3.75's page does not. It is seen in its code, and newer ones do: 1.45 does."""


@pytest.fixture(scope="module", params=pages())
def page_name(request: pytest.FixtureRequest) -> str:
    """The pages that all tests here are run on, one after the other."""
    return request.param


@pytest.fixture(scope="module")
def comfy(page_name: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comfy]:
    """The server that all tests share, or one that serves another page than its own."""
    if page_name == PINNED:
        yield request.getfixturevalue("comfy")
        return
    folder = tmp_path_factory.mktemp(f"comfyui_{page_name}")
    with ComfyServer(ServerConfig(base_directory=folder, arguments=server_arguments(page_name))) as server:
        yield Comfy(server)


@pytest.fixture(scope="module")
def browser_page(comfy: Comfy, page_name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyPage]:
    """One browser for all tests. Its user has seen the tutorial, which would cover the graph."""
    change_settings(comfy, {"Comfy.TutorialCompleted": True})
    provide_files(comfy)
    with browsing(comfy.server.url, tmp_path_factory.mktemp("browser"), SCREENSHOTS / page_name) as page:
        yield page


@pytest.fixture
def page(browser_page: ComfyPage) -> Iterator[ComfyPage]:
    """The page; a test that makes it complain fails."""
    browser_page.errors.clear()
    yield browser_page
    assert not browser_page.errors, "\n".join(browser_page.errors)


def provide_files(comfy: Comfy) -> None:
    """What an artist has who opens the workflows: the picture of every ComfyUI's input folder, and Wan's files by name.

    Newer pages warn when a model is not in its list; nothing here reads one.
    """
    example = comfy.server.comfyui / "input" / "example.png"
    (comfy.server.input_directory / example.name).write_bytes(example.read_bytes())
    wan = {node["class_type"]: node["inputs"] for node in read_api("wan_1.3b_text_to_long_video").values()}
    (comfy.server.models_directory("diffusion_models") / wan["SFPPLoadModel"]["model_name"]).touch()
    (comfy.server.models_directory("text_encoders") / wan["CLIPLoader"]["clip_name"]).touch()
    (comfy.server.models_directory("vae") / wan["VAELoader"]["vae_name"]).touch()


def change_settings(comfy: Comfy, settings: dict[str, Any]) -> None:
    requests.post(f"{comfy.server.url}/api/settings", json=settings, timeout=60).raise_for_status()


def assert_nothing_overlaps(layout: dict[str, Any]) -> None:
    """No node lies on another or on its title, and each lies in a group, notes apart."""
    nodes = layout["nodes"]
    for index, node in enumerate(nodes):
        x, y, width, height = node["box"]
        for other in nodes[:index]:
            other_x, other_y, other_width, other_height = other["box"]
            apart = x >= other_x + other_width or other_x >= x + width
            apart = apart or y - TITLE_HEIGHT >= other_y + other_height or other_y - TITLE_HEIGHT >= y + height
            assert apart, (node, other)
        groups = [group["box"] for group in layout["groups"]]
        inside = [
            gx <= x and gy <= y - TITLE_HEIGHT and x + width <= gx + gw and y + height <= gy + gh
            for gx, gy, gw, gh in groups
        ]
        assert sum(inside) == (node["type"] != "MarkdownNote"), node


def without_what_the_page_adds(workflow: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """What the page would queue, without values that the server does not know: of widgets that only show something."""
    known = {
        node_id: {name for names in object_info[node["class_type"]]["input_order"].values() for name in names}
        for node_id, node in workflow.items()
    }
    return {
        node_id: {**node, "inputs": {name: value for name, value in node["inputs"].items() if name in known[node_id]}}
        for node_id, node in workflow.items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_template_opens_as_it_was_laid_out(page: ComfyPage, comfy: Comfy, name: str):
    page.open_workflow(page_path(name))
    assert page.warnings() == []
    assert_nothing_overlaps(page.layout())
    page.screenshot(f"{name}_opened")
    assert max(page.note_overflow()) <= 0, "the note says more than its node shows"
    assert without_what_the_page_adds(page.as_api(), comfy.client.object_info()) == read_api(name)


@pytest.mark.parametrize("name", TINY)
def test_run_shows_progress_and_a_video_that_plays(page: ComfyPage, name: str):
    page.open_workflow(page_path(name))
    workflow = read_api(name)
    changes = short_inputs(workflow, seed=700 + TINY.index(name))
    for node_id, values in changes.items():
        for widget, value in values.items():
            page.set_widget(int(node_id), widget, value)
    values = page.widget_values()
    seen = page.run()
    assert seen["ended"] == ["execution_success", ""]
    lengths: Counter[str] = Counter()
    for node_id in changes:
        num_chunks = NUM_CHUNKS[workflow[node_id]["class_type"]]
        texts = [text for node, text in seen["texts"] if node == node_id]
        assert any(f"chunk {num_chunks} of {num_chunks}" in text for text in texts), texts
        done = [value for node, value, maximum in seen["progress"] if node == node_id and maximum == num_chunks]
        assert done == sorted(done) and done[-1] == num_chunks
        assert [size for node, *size in seen["previews"] if node == node_id], "no preview"
        lengths[texts[0]] += 1
    assert all(" frames, " in length for length in lengths)
    shown = {length: page.times_shown(length) for length in lengths}
    assert shown == lengths, "what came of it is not under the node any more"
    assert page.widget_values() == values, "the text would be saved with the workflow"
    for video, num_frames in zip(page.videos(len(FRAMES[name])), FRAMES[name], strict=True):
        played = page.play(video)
        assert played["error"] is None and played["time"] > 0.2
        assert (played["width"], played["height"]) == (64, 64)
        assert played["duration"] == pytest.approx(num_frames / FRAMES_PER_SECOND, abs=0.05)
    page.fit()
    page.screenshot(f"{name}_finished")
    assert page.warnings() == []
    assert_nothing_overlaps(page.layout())


def test_an_interrupted_run_says_what_is_kept_and_the_next_what_it_found(page: ComfyPage):
    page.open_workflow(page_path("tiny_text_to_long_video"))
    page.set_widget(3, "seconds", 11.8)
    page.set_widget(3, "seed", 800)
    queued = page.as_api()
    page.queue()
    seen = page.interrupt_at(" of 16 · ")
    assert seen["ended"][0] == "execution_interrupted"
    kept = next(text for _, text in seen["texts"] if "are finished and kept on disk" in text)
    assert kept.endswith("Queue the same workflow again to go on from there.") and page.times_shown(kept) == 1
    page.screenshot("interrupted")
    assert page.as_api() == queued, "the text would be queued as an input"
    assert page.run()["ended"] == ["execution_success", ""]
    assert page.times_shown(f"{kept.split()[0]} of 16 chunks were reused from disk.") == 1
    assert page.times_shown(kept) == 0
    page.screenshot("gone_on")


@pytest.mark.parametrize("name", NAMES)
def test_the_page_opens_api_files_too(page: ComfyPage, comfy: Comfy, name: str):
    page.open_empty()
    page.drop(API / f"{name}.json")
    assert page.warnings() == []
    assert without_what_the_page_adds(page.as_api(), comfy.client.object_info()) == read_api(name)


@pytest.mark.parametrize("name", EARLIER)
def test_a_workflow_of_an_earlier_version_opens_with_all_its_values(page: ComfyPage, comfy: Comfy, name: str):
    page.open_empty()
    page.drop(EARLIER_DATA / f"{name}.json")
    page.fit()
    assert page.warnings() == []
    saved = json.loads((EARLIER_DATA / f"{name}_api.json").read_text(encoding="utf-8"))
    assert without_what_the_page_adds(page.as_api(), comfy.client.object_info()) == saved


def own_nodes(comfy: Comfy) -> dict[str, Any]:
    return {name: info for name, info in comfy.client.object_info().items() if name.startswith("SFPP")}


def test_every_help_page_renders(page: ComfyPage, comfy: Comfy):
    page.open_empty()
    for name, info in own_nodes(comfy).items():
        help_text = page.help_of(name, info["display_name"])
        for widget in [*info["input_order"].get("required", []), *info["input_order"].get("optional", [])]:
            assert widget in help_text, f"the help of {name} does not show {widget}"
    page.screenshot("help")


@pytest.fixture
def chinese(comfy: Comfy) -> Iterator[None]:
    """The page's language, while a test runs."""
    change_settings(comfy, {"Comfy.Locale": "zh"})
    yield
    change_settings(comfy, {"Comfy.Locale": "en"})


@pytest.mark.usefixtures("chinese")
def test_help_is_chinese_on_a_chinese_page(page: ComfyPage):
    page.open_workflow(page_path("tiny_text_to_long_video"))
    assert "每个时间块" in page.help_of("SFPPSampler", "SFPP 采样器")
    page.screenshot("chinese_help")


@pytest.mark.usefixtures("chinese")
def test_nodes_are_chinese_on_a_chinese_page(page: ComfyPage, request: pytest.FixtureRequest):
    page.open_workflow(page_path("tiny_text_to_long_video"))
    if Version(page.version()) < KEEPS_TRANSLATIONS:
        reason = "this page drops the texts of all packs when it loads a language"
        request.applymarker(pytest.mark.xfail(reason=reason))
    page.screenshot("chinese")
    titles = {node["type"]: node["title"] for node in page.layout()["nodes"]}
    assert {name: titles[name] for name in CHINESE} == CHINESE
    assert {"秒数", "随机种子"} <= set(page.labels_of(3))
