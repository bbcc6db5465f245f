"""What comes over ComfyUI's websocket, byte by byte as the server packs it."""

from __future__ import annotations

import json
import struct

import pytest

from sfpp_client.protocol import Message, Preview, Progress, decode

IMAGE = b"\xff\xd8 the picture"


def text(kind: str, **data: object) -> str:
    return json.dumps({"type": kind, "data": data})


def preview_with_metadata(**metadata: object) -> bytes:
    packed = json.dumps(metadata).encode()
    return struct.pack(">II", 4, len(packed)) + packed + IMAGE


def test_progress_of_the_run():
    frame = text("progress", prompt_id="mine", node=5, value=3, max=8)
    assert decode(frame, "mine") == Progress(node_id="5", value=3, maximum=8)


@pytest.mark.parametrize(
    "frame",
    [
        text("progress", prompt_id="other", node="5", value=3, max=8),
        text("executing", prompt_id="other", node=None),
        text("status", status={"exec_info": {"queue_remaining": 0}}),
        '{"type": "feature_flags"}',
        '{"type": "x", "data": "hello"}',
        '{"type": "x", "data": ["mine"]}',
        '["x"]',
        '"hello"',
        "no JSON",
        text("progress", prompt_id="mine", node="5"),
        text("progress", prompt_id="mine", node="5", value="half", max=8),
        struct.pack(">II", 4, 7) + b"no JSON" + IMAGE,
        struct.pack(">II", 4, 2) + b"[]" + IMAGE,
        struct.pack(">II", 4, 2) + b"\xff\xff" + IMAGE,
        preview_with_metadata(prompt_id="other", node_id="5"),
        struct.pack(">II", 3, 0) + b"text of a node",
        b"",
        "",
    ],
)
def test_what_is_not_about_the_run_is_left_out(frame: str | bytes):
    assert decode(frame, "mine") is None


@pytest.mark.parametrize(
    ("kind", "data", "ends"),
    [
        ("executing", {"node": "5"}, False),
        ("executing", {"node": None}, True),
        ("executed", {"node": "5"}, False),
        ("execution_success", {}, True),
        ("execution_error", {}, True),
        ("execution_interrupted", {}, True),
    ],
)
def test_messages_that_end_a_run(kind: str, data: dict, ends: bool):
    message = decode(text(kind, prompt_id="mine", **data), "mine")
    assert isinstance(message, Message) and message.kind == kind
    assert message.ends_run() is ends


@pytest.mark.parametrize(("number", "mime_type"), [(1, "image/jpeg"), (2, "image/png")])
def test_preview_of_an_old_server(number: int, mime_type: str):
    frame = struct.pack(">II", 1, number) + IMAGE
    assert decode(frame, "mine") == Preview(node_id=None, mime_type=mime_type, image=IMAGE)


def test_preview_that_says_its_node():
    frame = preview_with_metadata(prompt_id="mine", node_id="5", image_type="image/png")
    assert decode(frame, "mine") == Preview(node_id="5", mime_type="image/png", image=IMAGE)
