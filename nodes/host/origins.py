"""Which version of which program something comes from: of ComfyUI, of another pack, or of an installed package."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import folder_paths
import torch

COMFYUI = ("comfy", "comfy_api", "comfy_api_nodes", "comfy_execution", "comfy_extras", "nodes", "execution", "server")
"""Top-level names of ComfyUI's own modules."""


def origin_of(module: str) -> str | None:
    """The version of what a module belongs to; None where nothing tells.

    Of a pack that is its code, because few packs count their versions; of everything else the number.
    """
    top = module.partition(".")[0]
    if top in ("builtins", *sys.stdlib_module_names):
        return platform.python_version()
    if top in COMFYUI:
        return comfyui_version()
    if (pack := _pack_of(module)) is not None:
        return pack_version(pack)
    return _distribution(top)


def short_name(module: str) -> str:
    """A module's name without the folders that ComfyUI puts into the names of packs."""
    return re.sub(r"^.*custom_nodes[/\\]", "", module)


@cache
def comfyui_version() -> str:
    """ComfyUI's number."""
    import comfyui_version as host

    return f"ComfyUI {host.__version__}"


@cache
def kernel_versions() -> tuple[str, ...]:
    """Of the packages that bring kernels of their own, as far as they are installed."""
    found = []
    for name in ("comfy-kitchen", "flash-attn", "sageattention", "sageattn3", "triton", "xformers"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return tuple(found)


@cache
def pack_version(pack: Path) -> str:
    """Digest of a pack's Python code as it is when it is first asked for; `pack` is its folder, or its only file."""
    digest = hashlib.sha256()
    files = [pack] if pack.is_file() else sorted(path for path in pack.rglob("*.py") if path.is_file())
    for path in files:
        digest.update(f"{path.relative_to(pack.parent).as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return f"{pack.name} {digest.hexdigest()[:16]}"


@cache
def _pack_of(module: str) -> Path | None:
    """The folder or file of the pack that a module belongs to."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return None
    path = Path(file).absolute()
    for root in map(Path, folder_paths.get_folder_paths("custom_nodes")):
        if path.is_relative_to(root.absolute()):
            return root.absolute() / path.relative_to(root.absolute()).parts[0]
    return None


@cache
def _distribution(top: str) -> str | None:
    if top == "torch":
        return f"torch {torch.__version__}"
    names = packages_distributions().get(top, ())
    try:
        return ", ".join(f"{name} {version(name)}" for name in sorted(set(names))) or None
    except PackageNotFoundError:
        return None
