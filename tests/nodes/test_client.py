"""The client of scripts/ against a real ComfyUI, with stock nodes only."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image

from sfpp_client import (
    ComfyClient,
    Message,
    NodeFailed,
    RunInterrupted,
    RunTimedOut,
    ServerUnreachable,
    WorkflowRefused,
)


def picture(color: int, *, prefix: str = "client", side: int = 64, num_blurs: int = 0) -> dict:
    """A workflow that makes a picture of one colour, blurs it so many times, and saves it."""
    workflow = {
        "0": {"class_type": "EmptyImage", "inputs": {"width": side, "height": side, "batch_size": 1, "color": color}}
    }
    for n in range(num_blurs):
        blur = {"image": [str(n), 0], "blur_radius": 31, "sigma": 10.0}
        workflow[str(n + 1)] = {"class_type": "ImageBlur", "inputs": blur}
    save = {"images": [str(num_blurs), 0], "filename_prefix": prefix}
    return workflow | {"save": {"class_type": "SaveImage", "inputs": save}}


def slow(color: int) -> dict:
    """A workflow that takes many seconds in many short steps: ComfyUI looks for interruptions between nodes."""
    return picture(color, side=512, num_blurs=100)


def test_result_names_the_files_that_were_made(comfy, tmp_path: Path):
    result = comfy.client.run(picture(0x102030, prefix="sub/red"))
    (file,) = result.files()
    assert (file.node_id, file.subfolder, file.folder) == ("save", "sub", "output")
    with Image.open(io.BytesIO(comfy.client.read(file))) as image:
        assert image.size == (64, 64) and image.getpixel((0, 0)) == (0x10, 0x20, 0x30)
    path = comfy.client.download(file, tmp_path / "new")
    assert path == tmp_path / "new" / file.filename
    assert path.read_bytes() == comfy.client.read(file)
    assert list(path.parent.iterdir()) == [path], "the partial file is gone"


def test_events_tell_the_nodes_in_order_and_of_this_run_only(comfy):
    events = []
    result = comfy.client.run(picture(0x000001, num_blurs=2), on_event=events.append)
    messages = [event for event in events if isinstance(event, Message)]
    assert {message.data["prompt_id"] for message in messages} == {result.prompt_id}
    executed = [message.data["node"] for message in messages if message.kind == "executing"]
    assert executed[:4] == ["0", "1", "2", "save"]
    assert messages[0].kind == "execution_start"
    assert messages[-1].ends_run()


def test_cached_run_still_has_its_outputs(comfy):
    first = comfy.client.run(picture(0x000002))
    again = comfy.client.run(picture(0x000002))
    assert not first.cached_nodes
    assert again.cached_nodes == {"0", "save"}
    assert list(again.files()) == list(first.files())


def test_unknown_node_is_refused_in_the_servers_words(comfy):
    with pytest.raises(WorkflowRefused, match="NoSuchNode"):
        comfy.client.run({"1": {"class_type": "NoSuchNode", "inputs": {}}})


def test_invalid_value_is_refused_with_node_and_widget(comfy):
    workflow = picture(0x000003)
    workflow["0"]["inputs"]["width"] = 0
    with pytest.raises(WorkflowRefused, match=r"node 0 \(EmptyImage\).*width") as refused:
        comfy.client.run(workflow)
    assert refused.value.node_errors.keys() == {"0"}


def test_half_valid_workflow_is_refused_and_its_valid_half_is_stopped(comfy):
    workflow = slow(0x000004)
    workflow["bad"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "bad"}}
    with pytest.raises(WorkflowRefused, match=r"node bad \(SaveImage\)"):
        comfy.client.run(workflow)
    queue = comfy.client.get_json("/queue")
    assert queue["queue_pending"] == []
    # Whatever had begun is gone before the next run, which would wait for it otherwise.
    comfy.client.run(picture(0x000005), timeout_s=30)


def test_failed_node_is_named_with_its_exception(comfy):
    with pytest.raises(NodeFailed, match="(?i)outside the output folder") as failed:
        comfy.client.run(picture(0x000006, prefix="../../outside"))
    assert (failed.value.node_id, failed.value.node_type) == ("save", "SaveImage")
    assert "get_save_image_path" in failed.value.traceback


def test_interrupt_ends_the_run(comfy):
    def interrupt(event):
        if isinstance(event, Message) and event.kind == "executing":
            comfy.client.interrupt(event.data["prompt_id"])

    with pytest.raises(RunInterrupted):
        comfy.client.run(slow(0x000007), on_event=interrupt)


def test_run_that_takes_too_long_is_stopped(comfy):
    with pytest.raises(RunTimedOut, match="after 1 s"):
        comfy.client.run(slow(0x000008), timeout_s=1)
    comfy.client.run(picture(0x000009), timeout_s=30)


def test_error_of_the_listener_stops_the_run_and_comes_through(comfy):
    class ListenerError(Exception):
        pass

    def fail(event):
        raise ListenerError

    with pytest.raises(ListenerError):
        comfy.client.run(slow(0x00000A), on_event=fail)
    comfy.client.run(picture(0x00000B), timeout_s=30)


def test_queued_run_can_be_waited_for_and_looked_up(comfy):
    prompt_id = comfy.client.queue(picture(0x00000C))
    result = comfy.client.wait(prompt_id, timeout_s=60)
    assert comfy.client.result(prompt_id) == result
    assert comfy.client.result("00000000-0000-4000-8000-000000000000") is None


def test_nobody_there_is_said():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = ComfyClient(f"http://127.0.0.1:{unused.getsockname()[1]}")
    with pytest.raises(ServerUnreachable, match="no answer from ComfyUI"):
        client.run(picture(0))
    with pytest.raises(ServerUnreachable, match="no answer from ComfyUI"):
        client.object_info()


@pytest.mark.parametrize("url", ["127.0.0.1:8188", "ftp://host", "http://", ""])
def test_address_that_is_none_is_refused(url: str):
    with pytest.raises(ValueError, match="http://127.0.0.1:8188"):
        ComfyClient(url)


class CuttableWire:
    """A TCP relay to the server whose connections can all be cut at once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.num_connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            # The relay may have seen the end of this connection already.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.num_connections += 1
            far = socket.create_connection(self._server)
            self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    @staticmethod
    def _relay(source: socket.socket, sink: socket.socket) -> None:
        try:
            while piece := source.recv(65536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


@pytest.fixture
def wire(comfy) -> Iterator[CuttableWire]:
    wire = CuttableWire(comfy.server.url)
    yield wire
    wire.close()


def test_cut_websocket_changes_nothing_about_the_result(wire: CuttableWire):
    events = []

    def cut_once(event):
        if not events:
            wire.cut()
        events.append(event)

    result = ComfyClient(wire.url).run(picture(0x00000D, num_blurs=20), on_event=cut_once, timeout_s=120)
    assert len(list(result.files())) == 1
    assert wire.num_connections >= 3, "one for the websocket, one for requests, and new ones after the cut"
