"""`--set NAME=VALUE`: which input of a workflow a name means, and which value a text stands for.

NAME is the name of an input, such as `seconds`, if only one node has it. Otherwise say which: NODE_ID.input,
TITLE.input or CLASS.input; `*.input` means all of them. `prompt` and `negative` mean the texts behind the inputs of
samplers. Nothing is guessed: a name that fits several inputs is refused with the names that fit one each.

Sends the local files among a workflow's settings to the server, and finds what their inputs call them there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfpp_client.client import ComfyClient
from sfpp_client.workflow import (
    ROLES,
    Input,
    ObjectInfo,
    Widget,
    Workflow,
    described_widgets,
    texts_of,
    workflow_inputs,
)

UPLOAD_SIGN = "@"
"""Before a path, it says that the file is here and has to be uploaded; a name without it is one of the server's."""

_ALL = "*."


class SettingError(ValueError):
    """A setting that a workflow or the server has no place for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One NAME=VALUE that was asked for."""

    name: str
    text: str

    @classmethod
    def parse(cls, words: str) -> Setting:
        """Split NAME=VALUE at the first equals sign. Raises ValueError if there is none or no name before it."""
        name, sign, text = words.partition("=")
        if not sign or not name.strip():
            raise ValueError(f"{words!r} is no setting; write NAME=VALUE, for example seconds=60")
        return cls(name=name.strip(), text=text)


@dataclass(frozen=True, kw_only=True, slots=True)
class Value:
    """The value that one input is to have."""

    target: Input
    value: Any
    """None until the file is uploaded."""
    upload: Path | None
    """The local file whose name on the server becomes the value."""


class Settable:
    """The inputs of one workflow by all the names that they go by."""

    def __init__(self, workflow: Workflow, object_info: ObjectInfo) -> None:
        """Collect the inputs of a workflow as a server describes them."""
        self.inputs = workflow_inputs(workflow, object_info)
        self._by_full_name = {found.full_name: found for found in self.inputs}
        self._by_name: dict[str, list[Input]] = defaultdict(list)
        texts = {role: texts_of(role, workflow, object_info) for role in ROLES}
        for found in self.inputs:
            roles = [role for role in ROLES if (found.node_id, found.name) in texts[role]]
            for name in {*found.names(), *roles}:
                self._by_name[name].append(found)

    def resolve(self, settings: Iterable[Setting]) -> list[Value]:
        """The values that settings stand for; of two for the same input the later counts, as in a shell.

        Raises:
            SettingError: a name means no input or several, or a value is not one that its input takes.
            OSError: a file that is to be uploaded is not there.
        """
        values = {
            target.full_name: _value(target, setting.text) for setting in settings for target in self.find(setting.name)
        }
        return list(values.values())

    def find(self, name: str) -> list[Input]:
        """The input that a name means, or with `*.input` the inputs. Raises SettingError if it is not clear which."""
        if name.startswith(_ALL):
            found = [found for found in self.inputs if found.present and found.name == name.removeprefix(_ALL)]
        else:
            found = self._meant_by(name)
        if not found:
            known = sorted({self.short_name(known) for known in self.inputs if known.present})
            raise SettingError(f"the workflow has nothing called {name} to set; it has {', '.join(known)}")
        if len(found) > 1 and not name.startswith(_ALL):
            lines = [f"  {one.full_name:<24} {one.title}, now {one.value!r:.60}" for one in found]
            raise SettingError("\n".join((f"{name} could mean any of these; name one of them:", *lines)))
        return found

    def short_name(self, target: Input) -> str:
        """The shortest name that means this input and no other."""
        for name in (*ROLES, *target.names()):
            if self._meant_by(name) == [target]:
                return name
        return target.full_name

    def _meant_by(self, name: str) -> list[Input]:
        """The inputs that a name fits. A full name goes before others, and what the workflow holds before what not."""
        if name in self._by_full_name:
            return [self._by_full_name[name]]
        fitting = self._by_name.get(name, [])
        return [found for found in fitting if found.present] or fitting


def with_values(workflow: Workflow, values: Iterable[tuple[Input, Any]]) -> Workflow:
    """A copy of the workflow with inputs set; the original stays as it is."""
    changed = {node_id: {**node, "inputs": dict(node["inputs"])} for node_id, node in workflow.items()}
    for target, value in values:
        changed[target.node_id]["inputs"][target.name] = value
    return changed


def _value(target: Input, text: str) -> Value:
    widget = target.widget
    if widget.kind == "COMBO" and text.startswith(UPLOAD_SIGN) and text not in (widget.choices or ()):
        return Value(target=target, value=None, upload=_readable_file(Path(text.removeprefix(UPLOAD_SIGN))))
    try:
        return Value(target=target, value=widget.parse(text), upload=None)
    except ValueError as error:
        raise SettingError(f"{target.full_name} ({target.title}) is to be {text!r}, but it {error}") from error


def _readable_file(path: Path) -> Path:
    with open(path, "rb"):
        return path


def with_uploads(client: ComfyClient, values: Iterable[Value]) -> list[tuple[Input, Any]]:
    """Each input with its value; a file that is to be the value is on the server when this returns.

    Raises:
        SettingError: the input knows no uploaded files.
        ComfyError: the server does not take the file.
    """
    return [(value.target, value.value if value.upload is None else _upload(client, value)) for value in values]


def choice_for(widget: Widget, name: str) -> str | None:
    """Return how an input calls a file that was uploaded under this name; None if it does not list that file.

    Inputs that are made for uploads know every file of their folder. Others know what their list has, perhaps with the
    folder's name behind it, as ComfyUI writes it.
    """
    if widget.upload_folder is not None:
        return name if widget.upload_folder == "input" else f"{name} [{widget.upload_folder}]"
    return next((choice for choice in (name, f"{name} [input]") if choice in (widget.choices or ())), None)


def _upload(client: ComfyClient, value: Value) -> str:
    target, folder = value.target, value.target.widget.upload_folder or "input"
    name = client.upload(value.upload, folder=folder)
    # Asked for again: an input that is not made for uploads lists its files, and this one is new.
    info = client.object_info(target.class_type)[target.class_type]
    widget = described_widgets(info)[target.name]
    choice = choice_for(widget, name)
    if choice is None:
        raise SettingError(
            f"{target.full_name} ({target.title}) does not list {name}, which is now in the server's {folder} folder; "
            f"it takes {widget.describe()}"
        )
    return choice
