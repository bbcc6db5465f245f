"""Sends the local files among a workflow's settings to the server, and finds what their inputs call them there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scripts.comfy_client import ComfyClient
from scripts.comfy_inputs import Input, Widget, described_widgets
from scripts.queue_settings import SettingError, Value


def with_uploads(client: ComfyClient, values: Iterable[Value]) -> list[tuple[Input, Any]]:
    """Each input with its value; a file that is to be the value is on the server when this returns.

    Raises:
        SettingError: the input knows no uploaded files.
        ComfyError: the server does not take the file.
    """
    return [(value.target, value.value if value.upload is None else _upload(client, value)) for value in values]


def choice_for(widget: Widget, name: str) -> str | None:
    """How an input calls a file that was uploaded under this name; None if it does not list that file.

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
