"""Descriptions of what other packs put into a MODEL, without calling it.

A description is equal on every start of the same program. It is made of names, of the versions of the programs that
they come from (ComfyUI, a pack, an installed package), and of everything that a function closes over or an object
holds. None if what it does cannot be known.
"""

from __future__ import annotations

import dis
import hashlib
import platform
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import folder_paths
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...sfpp_core.chunk_store.keys import tensor_digest

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
    """Return the versions of the packages that bring kernels of their own, as far as they are installed."""
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


PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    range,
    slice,
    torch.dtype,
    torch.device,
    torch.Size,
    PurePath,
)
MOST_PARTS = 5000
"""Looked at in one description; somebody who holds more than that holds a model, or half of the program."""
NOT_COMPILED, WRAPPED = "_torchdynamo_orig_callable", "__wrapped__"
"""Names under which wrappers keep the function that they wrap: torch.compiler.disable's, and functools'."""


class Untold(Exception):
    """Something does not tell what it does."""


Opaque = Callable[[Any], "str | None"]
"""Describes an object that could be anything, or answers None."""


def described(thing: Any, opaque: Opaque | None = None) -> str | None:
    """Describe a function, an object or plain data; None where they do not tell all.

    opaque: asked about whatever may change while it works: objects whose class is not ComfyUI's own, layers, and what
    functions keep in lists, dicts and variables of their own. What tells these from others in another way is better;
    where it knows nothing, and without it, they are described by what they hold now, and layers are not told.
    """
    try:
        return _Description(opaque).of(thing)
    except (Untold, RuntimeError, TypeError, NotImplementedError):
        # Some tensors of other packs cannot be read, and some objects not be looked into.
        return None


class _Description:
    """One description under way."""

    def __init__(self, opaque: Opaque | None) -> None:
        self._opaque = opaque
        self._above: dict[int, int] = {}
        """What is being described, by identity: functions may close over themselves, and objects hold each other."""
        self._num_parts = 0

    def of(self, thing: Any) -> str:
        """Raises Untold."""
        self._num_parts += 1
        if self._num_parts > MOST_PARTS:
            raise Untold
        if isinstance(thing, PLAIN):
            return repr(thing)
        if (level := self._above.get(id(thing))) is not None:
            return f"level {level}"
        self._above[id(thing)] = len(self._above)
        try:
            return self._of_part(thing)
        finally:
            del self._above[id(thing)]

    def _of_part(self, thing: Any) -> str:
        if isinstance(thing, Enum):
            return f"{_named(type(thing))}.{thing.name}"
        if isinstance(thing, (Tensor, np.ndarray, np.generic)):
            return f"tensor {tensor_digest(torch.as_tensor(thing))}"
        if isinstance(thing, (BuiltinFunctionType, type, ModuleType)):
            return _named(thing)
        if isinstance(thing, partial):
            return self._listed("partial", (thing.func, *thing.args, *sorted(thing.keywords.items())))
        if isinstance(thing, MethodType):
            return self._listed("method", (thing.__func__, thing.__self__))
        if isinstance(thing, FunctionType):
            return self._of_function(thing)
        return self._of_data(thing)

    def _of_data(self, thing: Any) -> str:
        is_mutable = isinstance(thing, (Mapping, list, set, deque)) and len(self._above) > 1
        if is_mutable and self._opaque is not None and (told := self._opaque(thing)) is not None:
            return f"{type(thing).__qualname__} {told}"
        if isinstance(thing, Mapping):
            pairs = sorted(f"{self.of(key)}: {self.of(value)}" for key, value in thing.items())
            return f"{type(thing).__qualname__}({', '.join(pairs)})"
        if isinstance(thing, (tuple, list, deque)):
            return self._listed(type(thing).__qualname__, thing)
        if isinstance(thing, (set, frozenset)):
            return f"{type(thing).__qualname__}({', '.join(sorted(map(self.of, thing)))})"
        return self._of_object(thing)

    def _of_function(self, function: FunctionType) -> str:
        name = _named(function)
        if _is_at_its_name(function) and origin_of(function.__module__) is not None:
            return name
        if (inner := vars(function).get(NOT_COMPILED)) is not None:
            return self._listed("not compiled", (inner,))
        name = f"{name} {_code_digest(function.__code__)}"
        others = tuple(sorted((key, value) for key, value in vars(function).items() if key != WRAPPED))
        by_name = tuple(sorted((function.__kwdefaults__ or {}).items()))
        try:
            return self._listed(name, (self._closed_over(function), function.__defaults__, by_name, others))
        except Untold:
            if (inner := vars(function).get(WRAPPED)) is None:
                raise
            return self._listed(f"{name} around", (inner,))

    def _closed_over(self, function: FunctionType) -> tuple[Any, ...]:
        """Return what a function closes over; of variables that it changes itself, what `opaque` says."""
        code, found = function.__code__, []
        changed = _changed_variables(code)
        for variable, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            if _is_empty(cell):
                continue
            told = self._opaque(cell) if variable in changed and self._opaque is not None else None
            found.append(cell.cell_contents if told is None else told)
        return tuple(found)

    def _of_object(self, thing: Any) -> str:
        if isinstance(thing, ModelPatcher):
            raise Untold
        name = _named(type(thing))
        is_layer = isinstance(thing, torch.nn.Module)
        is_frozen = is_dataclass(thing) and thing.__dataclass_params__.frozen
        is_host = type(thing).__module__.partition(".")[0] in COMFYUI
        if self._opaque is not None and not is_frozen and (is_layer or not is_host):
            told = self._opaque(thing)
            if told is not None:
                return f"{name} {told}"
        if is_layer:
            # What it holds depends on how it is loaded at present.
            raise Untold
        if not all(map(_is_python_class, type(thing).__mro__[:-1])):
            # A lock, a file, a generator: what is in it cannot be seen.
            raise Untold
        slots = [slot for kind in type(thing).__mro__ for slot in _slots(kind)]
        held = {slot: getattr(thing, slot) for slot in slots if hasattr(thing, slot)}
        return self._listed(name, tuple(sorted((held | getattr(thing, "__dict__", {})).items())))

    def _listed(self, name: str, parts: Iterable[Any]) -> str:
        return f"{name}({', '.join(self.of(part) for part in parts)})"


def _named(thing: Any) -> str:
    """The name of a function, a class or a module, and the version of what it comes from."""
    module = thing.__name__ if isinstance(thing, ModuleType) else getattr(thing, "__module__", None) or "builtins"
    name = "" if isinstance(thing, ModuleType) else f".{thing.__qualname__}"
    return f"{short_name(module)}{name} {origin_of(module) or ''}".rstrip()


def _code_digest(code: CodeType) -> str:
    """Digest what a function does by itself, the functions in it included."""
    constants = [_constant(part) for part in code.co_consts]
    return hashlib.sha256(code.co_code + repr((code.co_names, constants)).encode()).hexdigest()[:16]


def _constant(part: Any) -> str:
    """A constant of a function; sets of words have another order at each start."""
    if isinstance(part, CodeType):
        return _code_digest(part)
    if isinstance(part, (tuple, frozenset)):
        parts = [_constant(each) for each in part]
        return f"{type(part).__name__} {sorted(parts) if isinstance(part, frozenset) else parts}"
    return repr(part)


def _changed_variables(code: CodeType) -> set[str]:
    """Variables around a function that it, or a function in it, gives other values."""
    inner = (part for part in code.co_consts if isinstance(part, CodeType))
    changed = {step.argval for step in dis.get_instructions(code) if step.opname in ("STORE_DEREF", "DELETE_DEREF")}
    return changed.union(*map(_changed_variables, inner)) & {*code.co_freevars, *code.co_cellvars}


def _is_at_its_name(function: FunctionType) -> bool:
    """Return whether it is what its module has under its name, so that name and version tell all of it."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    named = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in named if name not in ("__dict__", "__weakref__"))


def _is_python_class(kind: type) -> bool:
    """Return whether a class is written in Python, so that nothing in its objects is hidden."""
    is_made_by_statement = bool(kind.__flags__ & (1 << 9))  # Py_TPFLAGS_HEAPTYPE, which some classes in C have as well
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) or ""
    return is_made_by_statement and file.endswith(".py")
