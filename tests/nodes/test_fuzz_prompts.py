"""A hundred workflows with a strange value in one of our nodes: refused in a sentence, or run, by a server that lives.

`--seed N` draws other values.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from typing import Any

import pytest
import requests

from tests.helpers.fuzzing import strange_value
from tests.nodes.conftest import Comfy
from tests.nodes.graphs import Graph

pytestmark = pytest.mark.endurance

SECONDS = 60
"""Of one run."""
OWN_WORDS = {"ValueError", "PermissionError", "FileNotFoundError", "JudgeError", "RuntimeError", "VideoFileError"}
"""Kinds of error that our nodes raise with a sentence."""


def workflow() -> dict[str, dict[str, Any]]:
    """All of our nodes but those that read files, and something that shows each."""
    graph = Graph()
    model, clip, vae = graph.tiny()
    schedule = [graph.add("SFPPPromptSchedule", clip=clip, lines="0:00 A red ball.", crossfade=0.0, recache=False), 0]
    later = [
        graph.add(
            "SFPPPromptAt", positive=graph.text(clip), seconds=1.0, crossfade=0.0, recache=True, earlier=schedule
        ),
        0,
    ]
    video, state = graph.video(model, later, steps="1000", cache_storage="as computed", deliver_on_interrupt=False)
    _, whole, longer = graph.more(
        model, state, positive=schedule, deliver_on_interrupt=False, cache_storage="as before"
    )
    decode = graph.add(
        "SFPPDecodeToVideo",
        latent=whole,
        vae=vae,
        filename_prefix="fuzz",
        crf=30,
        codec="H.264",
        fps=0.0,
        thumbnail=False,
    )
    graph.add("SFPPSaveState", state=longer, filename_prefix="fuzz")
    source = graph.add("SFPPContinueVideo", video=[decode, 0], vae=vae, seconds=0.5, width=0, height=0)
    graph.add("PreviewAny", source=[source, 0])
    rated = graph.add(
        "SFPPVisualStability",
        video=[decode, 0],
        prompt="A ball.",
        judge="offline",
        segment_seconds=5.0,
        model="",
        fps=16.0,
    )
    graph.add("PreviewAny", source=[rated, 1])
    return graph.workflow


def end_of(comfy: Comfy, prompt_id: str) -> dict[str, Any]:
    """What the history has of a run."""
    started = time.monotonic()
    while time.monotonic() - started < SECONDS:
        history = requests.get(f"{comfy.server.url}/history/{prompt_id}", timeout=60).json()
        if prompt_id in history:
            return history[prompt_id]["status"]
        time.sleep(0.05)
    pytest.fail(f"the run was not over after {SECONDS} s")


@pytest.mark.timeout(1800)
def test_a_hundred_strange_values(comfy: Comfy, request: pytest.FixtureRequest):
    draw, whole = random.Random(request.config.getoption("--seed")), workflow()
    places = [
        (node, name)
        for node, content in whole.items()
        if content["class_type"].startswith("SFPP")
        for name in content["inputs"]
    ]
    ended: Counter[str] = Counter()
    for number in range(100):
        node, name = places[number % len(places)] if number < len(places) else draw.choice(places)
        prompt = json.loads(json.dumps(whole))
        prompt[node]["inputs"][name] = value = strange_value(draw)
        case = f"{prompt[node]['class_type']}.{name} = {str(value)[:60]!r}"
        answer = requests.post(f"{comfy.server.url}/prompt", data=json.dumps({"prompt": prompt}), timeout=60)
        assert comfy.server.is_running(), case
        if answer.status_code == 500:
            # ComfyUI's own: it takes every list for a link.
            assert isinstance(value, list | dict), case
            ended["ComfyUI failed"] += 1
        elif answer.status_code == 400:
            for refused in answer.json()["node_errors"].values():
                for error in refused["errors"]:
                    kind = error["extra_info"].get("exception_type", "ValueError")
                    assert kind.rpartition(".")[2] in OWN_WORDS or isinstance(value, list | dict), (case, error)
            ended["refused"] += 1
        else:
            status = end_of(comfy, answer.json()["prompt_id"])
            for word, told in status["messages"]:
                if word == "execution_error":
                    kind = told["exception_type"].rpartition(".")[2]
                    assert kind in OWN_WORDS, (case, told["exception_type"], told["exception_message"])
            ended[status["status_str"]] += 1
    assert ended["refused"] > 20 and sum(ended.values()) == 100, ended
