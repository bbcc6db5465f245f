"""A client for a ComfyUI server: queue a workflow in API format, follow it, fetch what it made.

    client = ComfyClient("http://127.0.0.1:8188")
    result = client.run(workflow, on_event=show)
    for file in result.files():
        client.download(file, folder)

Speaks the HTTP and websocket interface of ComfyUI 0.3.75 up to 0.26.0. The websocket brings progress and previews.
Whether a run has ended, and how, is read from the history alone: a broken websocket can delay a result, not change it.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from scripts.comfy_errors import (
    ComfyError,
    NodeFailed,
    RunInterrupted,
    RunTimedOut,
    ServerUnreachable,
    WorkflowRefused,
)
from scripts.comfy_events import LOOPBACK_HOSTS, Event, EventSocket, Message, OnEvent, Preview, Progress
from scripts.comfy_results import OutputFile, RunResult, result_of
from scripts.comfy_workflow import Workflow
from sfpp_core.files import replacing

__all__ = [
    "ComfyClient",
    "ComfyError",
    "Event",
    "Message",
    "NodeFailed",
    "OutputFile",
    "Preview",
    "Progress",
    "RunInterrupted",
    "RunResult",
    "RunTimedOut",
    "ServerUnreachable",
    "Workflow",
    "WorkflowRefused",
]

logger = logging.getLogger(__name__)

_HTTP_TIMEOUT_S = 60.0
_HISTORY_DELAY_S = 0.05
_HISTORY_TRIES = 20


class ComfyClient:
    """A connection to one server. A call that does not work raises `ComfyError` or one of its kinds."""

    def __init__(self, url: str, *, client_id: str | None = None) -> None:
        """Make a client; nothing is sent yet.

        Args:
            url: address of the server, such as "http://127.0.0.1:8188".
            client_id: how the server tells its listeners apart; made up if None. It goes with every workflow: without
                one the server leaves the outputs of cached nodes out of the history.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {url!r}; give the server's address, such as http://127.0.0.1:8188")
        self.url = url.rstrip("/")
        self.client_id = client_id or uuid.uuid4().hex
        self._http = requests.Session()
        self._http.trust_env = parts.hostname not in LOOPBACK_HOSTS

    def run(
        self,
        workflow: Workflow,
        *,
        on_event: OnEvent | None = None,
        timeout_s: float = 600.0,
        extra_data: Mapping[str, Any] | None = None,
    ) -> RunResult:
        """Queue a workflow and follow it to its end.

        Args:
            workflow: the workflow in API format.
            on_event: called with each event of this run, on this thread; if it raises, the run is stopped.
            timeout_s: seconds from now after which the run is stopped.
            extra_data: passed on to the server, e.g. {"extra_pnginfo": {"workflow": ...}}.

        Raises:
            WorkflowRefused, NodeFailed, RunInterrupted, RunTimedOut, ServerUnreachable.
        """
        # Connected first, so that the run's first events are not missed.
        with EventSocket(self.url, self.client_id) as events:
            prompt_id = self.queue(workflow, extra_data=extra_data)
            try:
                return self._follow(prompt_id, events, on_event, timeout_s)
            except (NodeFailed, RunInterrupted):
                raise
            except BaseException:
                self._abandon(prompt_id)
                raise

    def queue(self, workflow: Workflow, *, extra_data: Mapping[str, Any] | None = None) -> str:
        """Put a workflow into the server's queue and return the id of the run.

        A server runs the valid part of a half-valid workflow; here that counts as refused, and the part is stopped.
        """
        # No prompt_id of ours: old servers take any, new ones only some forms, and all of them make one up.
        body = {"prompt": workflow, "client_id": self.client_id, "extra_data": dict(extra_data or {})}
        response = self._request("POST", "/prompt", json=body, accept_errors=True)
        answer = _json_object(response)
        node_errors = answer.get("node_errors") or {}
        if not response.ok:
            raise WorkflowRefused(_error_object(answer, response), node_errors)
        if "prompt_id" not in answer:
            raise ComfyError(f"POST /prompt: the answer of {self.url} is not ComfyUI's: {response.text[:500]}")
        prompt_id = str(answer["prompt_id"])
        if node_errors:
            self._abandon(prompt_id)
            raise WorkflowRefused({}, node_errors)
        return prompt_id

    def wait(self, prompt_id: str, *, on_event: OnEvent | None = None, timeout_s: float = 600.0) -> RunResult:
        """Follow a run that was queued with this client to its end; events from before this call are missed.

        A run that is not over after `timeout_s` seconds raises RunTimedOut and goes on.
        """
        with EventSocket(self.url, self.client_id) as events:
            return self._follow(prompt_id, events, on_event, timeout_s)

    def result(self, prompt_id: str) -> RunResult | None:
        """The result of a run that ended well, None for one that has not ended; raises for one that failed."""
        entry = self.history(prompt_id)
        return None if entry is None else result_of(prompt_id, entry)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The server's record of a run that has ended, or None."""
        return self.get_json(f"/history/{prompt_id}").get(prompt_id)

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the run with this id if it is running now, or with None whatever is running."""
        self._request("POST", "/interrupt", json={} if prompt_id is None else {"prompt_id": prompt_id})

    def cancel_queued(self, prompt_id: str) -> None:
        """Take a run that has not begun out of the queue."""
        self._request("POST", "/queue", json={"delete": [prompt_id]})

    def object_info(self, node_class: str | None = None) -> dict[str, Any]:
        """The server's description of every node class, or of one: class -> description."""
        return self.get_json("/object_info" if node_class is None else f"/object_info/{node_class}")

    def free(self) -> None:
        """Have the server unload its models and forget the results of earlier runs."""
        self._request("POST", "/free", json={"unload_models": True, "free_memory": True})

    def get(self, path: str) -> requests.Response:
        """GET any path of the server; raises for a status that is an error."""
        return self._request("GET", path)

    def get_json(self, path: str) -> Any:
        """GET a path and decode its JSON."""
        response = self._request("GET", path)
        try:
            return response.json()
        except requests.JSONDecodeError as error:
            raise ComfyError(f"GET {path}: the answer of {self.url} is no JSON: {response.text[:500]}") from error

    def read(self, file: OutputFile) -> bytes:
        """The content of a file that a run made. For large files use `download`."""
        return self._request("GET", "/view", params=file.query()).content

    def download(self, file: OutputFile, directory: Path, *, name: str | None = None) -> Path:
        """Copy a file that a run made into a local folder, in pieces; return where it is.

        It is called `name`, or as on the server. It appears only when it is complete, and replaces one of that name.
        """
        directory.mkdir(parents=True, exist_ok=True)
        # Whatever path the server's word contains, the file lands in `directory`.
        target = directory / (name or Path(file.filename).name)
        response = self._request("GET", "/view", params=file.query(), stream=True)
        try:
            with response, replacing(target) as partial, open(partial, "wb") as out:
                for piece in response.iter_content(1 << 20):
                    out.write(piece)
        except requests.RequestException as error:
            raise ServerUnreachable(f"{self.url} was lost in the middle of {file.filename}: {error}") from error
        return target

    def _follow(self, prompt_id: str, events: EventSocket, on_event: OnEvent | None, timeout_s: float) -> RunResult:
        deadline = time.monotonic() + timeout_s
        while True:
            event = events.next(prompt_id)
            if event is not None and on_event is not None:
                on_event(event)
            if event is None:
                result = self.result(prompt_id)
                if result is not None:
                    _pass_on_the_rest(events, prompt_id, on_event)
            elif isinstance(event, Message) and event.ends_run():
                result = self._result_soon(prompt_id)
            else:
                result = None
            if result is not None:
                return result
            if time.monotonic() > deadline:
                raise RunTimedOut(f"the run {prompt_id} was not over after {timeout_s:g} s")

    def _result_soon(self, prompt_id: str) -> RunResult | None:
        """The result of a run whose end was just announced: its record follows the announcement by a moment."""
        for _ in range(_HISTORY_TRIES):
            result = self.result(prompt_id)
            if result is not None:
                return result
            time.sleep(_HISTORY_DELAY_S)
        return None

    def _abandon(self, prompt_id: str) -> None:
        """Stop a run whether it is queued or running; the error that led here matters more than one from this."""
        try:
            self.cancel_queued(prompt_id)
            self.interrupt(prompt_id)
        except ComfyError as error:
            logger.warning("could not stop the run %s: %s", prompt_id, error)

    def _request(self, method: str, path: str, *, accept_errors: bool = False, **arguments: Any) -> requests.Response:
        try:
            response = self._http.request(method, self.url + path, timeout=_HTTP_TIMEOUT_S, **arguments)
        except requests.exceptions.InvalidJSONError as error:
            raise ComfyError(f"{method} {path}: what is to be sent cannot be written as JSON: {error}") from error
        except requests.RequestException as error:
            raise ServerUnreachable(f"no answer from ComfyUI at {self.url}: {error}") from error
        if not response.ok and not accept_errors:
            raise ComfyError(f"{method} {path}: {response.status_code} {response.reason}: {response.text[:500]}")
        return response


def _pass_on_the_rest(events: EventSocket, prompt_id: str, on_event: OnEvent | None) -> None:
    """Hand over the events of an ended run that a busy server sends late: up to the announced end, or to silence."""
    while (event := events.next(prompt_id)) is not None:
        if on_event is not None:
            on_event(event)
        if isinstance(event, Message) and event.ends_run():
            return


def _json_object(response: requests.Response) -> dict[str, Any]:
    """The JSON object in a response; empty if it holds something else, such as a proxy's page."""
    try:
        answer = response.json()
    except requests.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _error_object(answer: Mapping[str, Any], response: requests.Response) -> dict[str, Any]:
    error = answer.get("error")
    if isinstance(error, dict):
        return error
    return {"type": "http_error", "message": f"{response.status_code} {response.reason}", "details": str(error or "")}
