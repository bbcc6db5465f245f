"""The artist's page: workflows open, run, show themselves at work and play, in a real browser.

Pictures of what was seen lie in output/screenshots after a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pytest
import requests
from packaging.version import Version

from scripts.comfy_server import ROOT
from tests.comfy.conftest import Comfy
from tests.comfy.page import ComfyPage, browsing
from tests.comfy.shipped import API, FRAMES, NAMES, NUM_CHUNKS, TINY, page_path, read_api, short_inputs

SCREENSHOTS = ROOT / "output" / "screenshots"
FRAMES_PER_SECOND = 16
CHINESE = {"SFPPSampler": "SFPP 采样器", "SFPPDecodeToVideo": "SFPP 解码为视频"}
TITLE_HEIGHT = 30

FORGETS_TRANSLATIONS = Version(version("comfyui-frontend-package")) < Version("1.33")
"""ComfyUI 0.3.75's page. It is seen in its code, and newer ones keep them: 1.45 does."""


@pytest.fixture(scope="module")
def browser_page(comfy: Comfy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyPage]:
    """One browser for all tests. Its user has seen the tutorial, which would cover the graph."""
    change_settings(comfy, {"Comfy.TutorialCompleted": True})
    provide_files(comfy)
    with browsing(comfy.server.url, tmp_path_factory.mktemp("browser"), SCREENSHOTS) as page:
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
def test_run_shows_progress_and_a_film_that_plays(page: ComfyPage, name: str):
    page.open_workflow(page_path(name))
    workflow = read_api(name)
    changes = short_inputs(workflow, seed=700 + TINY.index(name))
    for node_id, values in changes.items():
        for widget, value in values.items():
            page.set_widget(int(node_id), widget, value)
    seen = page.run()
    assert seen["ended"] == ["execution_success", ""]
    for node_id in changes:
        num_chunks = NUM_CHUNKS[workflow[node_id]["class_type"]]
        texts = [text for node, text in seen["texts"] if node == node_id]
        assert any(f"chunk {num_chunks} of {num_chunks}" in text for text in texts), texts
        done = [value for node, value, maximum in seen["progress"] if node == node_id and maximum == num_chunks]
        assert done == sorted(done) and done[-1] == num_chunks
        assert [size for node, *size in seen["previews"] if node == node_id], "no preview"
        assert page.shows(texts[-1]), "the text is not under the node"
    for video, num_frames in zip(page.videos(len(FRAMES[name])), FRAMES[name], strict=True):
        played = page.play(video)
        assert played["error"] is None and played["time"] > 0.2
        assert (played["width"], played["height"]) == (64, 64)
        assert played["duration"] == pytest.approx(num_frames / FRAMES_PER_SECOND, abs=0.05)
    page.fit()
    page.screenshot(f"{name}_finished")
    assert page.warnings() == []
    assert_nothing_overlaps(page.layout())


@pytest.mark.parametrize("name", NAMES)
def test_the_page_opens_api_files_too(page: ComfyPage, comfy: Comfy, name: str):
    page.open_empty()
    page.drop(API / f"{name}.json")
    assert page.warnings() == []
    assert without_what_the_page_adds(page.as_api(), comfy.client.object_info()) == read_api(name)


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


@pytest.mark.xfail(FORGETS_TRANSLATIONS, reason="this page drops the texts of all packs when it loads a language")
@pytest.mark.usefixtures("chinese")
def test_nodes_are_chinese_on_a_chinese_page(page: ComfyPage):
    page.open_workflow(page_path("tiny_text_to_long_video"))
    page.screenshot("chinese")
    titles = {node["type"]: node["title"] for node in page.layout()["nodes"]}
    assert {name: titles[name] for name in CHINESE} == CHINESE
    assert {"秒数", "随机种子"} <= set(page.labels_of(3))
