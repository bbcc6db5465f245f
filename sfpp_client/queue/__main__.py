"""Queues a workflow on a ComfyUI server and fetches what it makes: the command line for pipelines and render farms.

python -m sfpp_client.queue workflows/api/tiny_text_to_long_video.json --set prompt="A red ball at sea." --out videos
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sfpp_client.client import ComfyClient, new_prompt_id
from sfpp_client.command_line import print_whatever_can_be_shown, require_writable, stop_in_order_on_signals
from sfpp_client.errors import RunLost
from sfpp_client.queue.outcome import EXPECTED, MEANINGS, ExitCode, InputUnreadable, exit_code_of, fetch
from sfpp_client.queue.progress import RunProgress
from sfpp_client.queue.settings import Settable, Setting, SettingError, Value, with_uploads, with_values
from sfpp_client.results import RunResult
from sfpp_client.workflow import Input, Workflow, load_workflow

DEFAULT_SERVER = "http://127.0.0.1:8188"


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line asks for; leaves the program with exit code 2 and a message if that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m sfpp_client.queue",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Queues a workflow on a ComfyUI server, follows it, and fetches what it makes. Progress goes to "
        "stderr,\nthe paths of the results to stdout, one a line.",
        epilog="exit codes:\n" + "\n".join(f"  {code:3d}  {meaning}" for code, meaning in MEANINGS.items()),
    )
    _add_job(parser)
    _add_conduct(parser)
    return parser.parse_args(words)


def _add_job(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of what is to be made, where, and where to."""
    add = parser.add_argument
    add("workflow", type=Path, metavar="WORKFLOW.json", help="the workflow in API format")
    add(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="NAME=VALUE",
        help="set an input: prompt=..., seconds=60, NODE_ID.input=..., TITLE.input=..., CLASS.input=..., or "
        "*.input=... for all; image=@FILE uploads a local file. May be repeated",
    )
    add(
        "--out", type=Path, metavar="DIR", help="fetch the results into this folder (default: leave them on the server)"
    )
    add("--server", type=_client, default=DEFAULT_SERVER, metavar="URL", help=f"default: {DEFAULT_SERVER}")


def _add_conduct(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of what to print, and how long to try."""
    add = parser.add_argument
    add("--list", action="store_true", help="print what the workflow lets you set, with present values, and end")
    add("--json", action="store_true", help="print one JSON object on stdout in place of paths")
    add("--quiet", action="store_true", help="show no progress")
    add(
        "--timeout",
        type=_seconds,
        default=math.inf,
        metavar="S",
        help="stop the run after so many seconds, waiting included",
    )
    add(
        "--patience",
        type=_seconds,
        default=60.0,
        metavar="S",
        help="how long the server may be away meanwhile (default: 60)",
    )
    add(
        "--retries",
        type=_count,
        default=0,
        metavar="N",
        help="queue again if the server was restarted meanwhile (default: 0)",
    )


def _setting(words: str) -> Setting:
    try:
        return Setting.parse(words)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _client(url: str) -> ComfyClient:
    try:
        return ComfyClient(url)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise argparse.ArgumentTypeError(f"{text} is no time; give seconds, 0 or more")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text} is no count; give a whole number, 0 or more")
    return int(text)


@dataclass(kw_only=True, slots=True)
class Record:
    """The record that `--json` prints when all is over, well or not."""

    workflow: str
    server: str
    status: str = ""
    """Name of the exit code, in lower case."""
    exit_code: int = 0
    message: str | None = None
    """What went wrong, in words."""
    prompt_id: str | None = None
    """The server's id of the last run; None if none was queued."""
    attempts: int = 0
    """How often the workflow was queued."""
    seconds: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    """NODE_ID.input -> what it was set to."""
    files: list[dict[str, str | None]] = field(default_factory=list)
    """What the run made: node_id, filename, subfolder and folder on the server; path here, None if not fetched."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """Node id -> what the node reported, texts included."""
    cached_nodes: list[str] = field(default_factory=list)
    """Nodes whose results were still known to the server."""

    def end(self, code: int, message: str | None) -> None:
        """Note how it ended."""
        self.exit_code, self.message = code, message
        self.status = ExitCode(code).name.lower()


def main(words: Sequence[str] | None = None) -> int:
    """Command line; the exit code says what a scheduler may do next."""
    arguments = parse_arguments(words)
    stop_in_order_on_signals()
    print_whatever_can_be_shown()
    record = Record(workflow=str(arguments.workflow), server=arguments.server.url)
    began = time.monotonic()
    message: str | None = None
    try:
        if arguments.list:
            _print_inputs(arguments)
            return ExitCode.DONE
        _carry_out(arguments, record)
        code = ExitCode.DONE
    except KeyboardInterrupt:
        code, message = ExitCode.SIGINT, "stopped"
    except SystemExit as request:  # by SIGTERM
        code, message = ExitCode(request.code), "stopped"
    except EXPECTED as error:
        code, message = exit_code_of(error), str(error)
    if message is not None:
        print(f"queue: {message}", file=sys.stderr)
    if arguments.json:
        record.seconds = round(time.monotonic() - began, 3)
        record.end(code, message)
        print(json.dumps(asdict(record)))
    return code


def _carry_out(arguments: argparse.Namespace, record: Record) -> None:
    """Set up the workflow, run it, and fetch and name what it made."""
    client, workflow = arguments.server, _read(arguments.workflow)
    if arguments.out is not None:
        require_writable(arguments.out)
    values = with_uploads(client, _resolve(client, workflow, arguments.set))
    record.settings = {target.full_name: value for target, value in values}
    result = _run(arguments, with_values(workflow, values), record)
    record.outputs, record.cached_nodes = dict(result.outputs), sorted(result.cached_nodes)
    for file in dict.fromkeys(file for file in result.files() if file.folder != "input"):
        path = None if arguments.out is None else fetch(client, file, arguments.out, patience_s=arguments.patience)
        record.files.append({**asdict(file), "path": None if path is None else str(path)})
        if not arguments.json:
            print(path or "/".join(part for part in (file.folder, file.subfolder, file.filename) if part), flush=True)


def _read(path: Path) -> Workflow:
    try:
        return load_workflow(path)
    except OSError as error:
        raise InputUnreadable(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise SettingError(str(error)) from error


def _resolve(client: ComfyClient, workflow: Workflow, settings: Sequence[Setting]) -> list[Value]:
    if not settings:
        return []
    try:
        return Settable(workflow, client.object_info()).resolve(settings)
    except OSError as error:
        raise InputUnreadable(f"{error.filename} cannot be read: {error.strerror}") from error


def _run(arguments: argparse.Namespace, workflow: Workflow, record: Record) -> RunResult:
    """Run the workflow; queue it again as often as allowed if the server is restarted meanwhile."""
    deadline = time.monotonic() + arguments.timeout
    progress = None if arguments.quiet else RunProgress(workflow)
    while True:
        record.attempts += 1
        record.prompt_id = new_prompt_id()
        try:
            return arguments.server.run(
                workflow,
                on_event=progress,
                timeout_s=deadline - time.monotonic(),
                patience_s=arguments.patience,
                prompt_id=record.prompt_id,
            )
        except RunLost as lost:
            if record.attempts > arguments.retries:
                raise
            print(f"queue: {lost}; queueing it again", file=sys.stderr)
        finally:
            if progress is not None:
                progress.close()


def _print_inputs(arguments: argparse.Namespace) -> None:
    """Print what can be set, one input a line: its shortest name, its present value as JSON, and what it takes."""
    workflow = _read(arguments.workflow)
    settable = Settable(workflow, arguments.server.object_info())
    rows = [(settable.short_name(one), one) for one in settable.inputs]
    if arguments.json:
        print(json.dumps([_described(name, one) for name, one in rows]))
        return
    width = max((len(name) for name, _ in rows), default=0)
    for name, one in rows:
        print(f"{name:<{width}} = {json.dumps(one.value, ensure_ascii=False)}   ({one.title}: {one.widget.describe()})")


def _described(name: str, one: Input) -> dict[str, Any]:
    """An input for programs; `present` tells a value of the workflow from the node's default."""
    widget = one.widget
    return {
        "name": name,
        "full_name": one.full_name,
        "title": one.title,
        "class_type": one.class_type,
        "kind": widget.kind,
        "minimum": widget.minimum if math.isfinite(widget.minimum) else None,
        "maximum": widget.maximum if math.isfinite(widget.maximum) else None,
        "choices": widget.choices,
        "value": one.value,
        "present": one.present,
    }


if __name__ == "__main__":
    sys.exit(main())
