"""Code that runs inside ComfyUI without its server: the real modules, and the pack loaded as ComfyUI loads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tools.comfy_server import ROOT, default_comfyui

TIMEOUT_S = 300

PREAMBLE = f"""
import importlib.util, json, os, sys
sys.path.insert(0, os.getcwd())
import utils.install_util  # before `comfy` puts a module of the same name in front
import comfy.options
comfy.options.enable_args_parsing()
import torch, server
spec = importlib.util.spec_from_file_location(
    "pack", {str(ROOT / "__init__.py")!r}, submodule_search_locations=[{str(ROOT)!r}]
)
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
"""


def inside_comfyui(code: str, *arguments: str) -> Any:
    """What the code prints last, read as JSON; the pack is importable as `pack`. Raises AssertionError if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "script.py")
        script.write_text(PREAMBLE + code)
        done = subprocess.run(
            [sys.executable, script, "--cpu", *arguments],
            cwd=default_comfyui(),
            env=environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.strip().splitlines()[-1])
