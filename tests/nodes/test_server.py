"""ComfyUI loads the pack with everything that belongs to it, and the server process comes and goes as promised."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tools.comfy_server import PACK_FOLDER, ROOT, ComfyServer, ServerConfig, ServerError

NODE_IDS = {
    "SFPPLoadModel",
    "SFPPLoadTiny",
    "SFPPContinueVideo",
    "SFPPSampler",
    "SFPPExtend",
    "SFPPPromptSchedule",
    "SFPPPromptAt",
    "SFPPSaveState",
    "SFPPLoadState",
    "SFPPDecodeToVideo",
    "SFPPVisualStability",
    "SFPPStabilityReport",
}


def test_all_nodes_are_registered_under_one_category(comfy):
    log = comfy.server.log_tail(10_000)
    assert "IMPORT FAILED" not in log, log
    nodes = {name: node for name, node in comfy.client.object_info().items() if name.startswith("SFPP")}
    assert nodes.keys() == NODE_IDS
    assert {node["category"] for node in nodes.values()} == {"SelfForcing++"}


@pytest.mark.parametrize("node_id", sorted(NODE_IDS))
def test_help_page_is_served(comfy, node_id: str):
    page = comfy.client.get(f"/extensions/{PACK_FOLDER}/docs/{node_id}/en.md").text
    assert page.startswith("# ") and len(page) > 200


def test_workflow_templates_are_listed_and_served(comfy):
    files = {path.stem: path for path in (ROOT / "workflows").glob("*.json")}
    assert files, "the pack has no workflows"
    assert set(comfy.client.get_json("/api/workflow_templates")[PACK_FOLDER]) == files.keys()
    for name, path in files.items():
        served = comfy.client.get_json(f"/api/workflow_templates/{PACK_FOLDER}/{name}.json")
        assert served == json.loads(path.read_text(encoding="utf-8"))


def test_metadata_is_what_comfyui_reads_from_it(comfy):
    program = (
        "from comfy_config.config_parser import extract_node_configuration as read; "
        f"c = read({str(ROOT)!r}); print(c.project.name, c.tool_comfy.display_name, c.tool_comfy.publisher_id)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=comfy.server.comfyui, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "self-forcing-pp Self-Forcing++ self-forcing-pp"
    assert done.stderr == ""


def test_failed_start_shows_what_comfyui_said_and_leaves_no_process(tmp_path: Path):
    server = ComfyServer(ServerConfig(base_directory=tmp_path, arguments=("--no-such-flag",)))
    with pytest.raises(ServerError, match="unrecognized arguments: --no-such-flag"):
        server.start()
    assert not server.is_running()


def test_wrong_comfyui_folder_is_named(tmp_path: Path):
    with pytest.raises(ServerError, match=str(tmp_path)):
        ComfyServer(ServerConfig(base_directory=tmp_path, comfyui=tmp_path)).start()


START_AND_WAIT = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from tools.comfy_server import ComfyServer, ServerConfig
ComfyServer(ServerConfig(base_directory=Path({base!r}))).start()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a process with its parent")
def test_server_does_not_outlive_a_parent_that_is_killed(tmp_path: Path):
    program = START_AND_WAIT.format(root=str(ROOT), base=str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", program])
    servers = _wait_for(lambda: psutil.Process(parent.pid).children(), timeout_s=30)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(servers, timeout=10)
    assert not alive


def _wait_for(look, *, timeout_s: float):
    """What `look` finds, as soon as it finds something."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"nothing was found within {timeout_s} s")


def test_a_server_of_a_background_job_stops_when_it_is_asked(tmp_path: Path):
    """A shell starts background jobs with SIGINT ignored, which processes inherit and Python leaves as it is."""
    program = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from tools.comfy_server import ComfyServer, ServerConfig\n"
        "server = ComfyServer(ServerConfig(base_directory=pathlib.Path(sys.argv[1])))\n"
        "server.start()\n"
        "began = time.monotonic()\n"
        "server.stop()\n"
        "print(time.monotonic() - began)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < ServerConfig(base_directory=tmp_path).stop_timeout_s / 2, done.stderr
