"""A client for a ComfyUI server: queue a workflow in API format, follow it, fetch what it made.

    client = ComfyClient("http://127.0.0.1:8188")
    result = client.run(workflow, on_event=show)
    for file in result.files():
        client.download(file, folder)

Speaks the HTTP and websocket interface of ComfyUI 0.3.75 up to 0.33.0. The websocket brings progress and previews.
Whether a run has ended, and how, is read from the history alone: a broken websocket can delay a result, not change it.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import requests

from sfpp_client.errors import (
    ComfyError,
    NodeFailed,
    ResultGone,
    RunInterrupted,
    RunLost,
    RunTimedOut,
    ServerUnreachable,
    StrangeAnswer,
    Unsendable,
    UploadRefused,
    WorkflowRefused,
    refusal,
)
from sfpp_client.protocol import (
    Event,
    EventSocket,
    HttpConnection,
    Message,
    OnEvent,
    Queued,
    ServerAddress,
    json_object,
)
from sfpp_client.results import OutputFile, RunResult, result_of
from sfpp_client.workflow import Workflow
from sfpp_core.files import replacing

logger = logging.getLogger(__name__)

_HISTORY_DELAY_S = 0.05
_HISTORY_TRIES = 20

# The server's answer about its queue holds every workflow in it, so it is asked for more rarely than the history.
_QUEUE_INTERVAL_S = 5.0


class Records(Protocol):
    """The records that a server has of its runs."""

    def result(self, prompt_id: str) -> RunResult | None:
        """The result of a run that ended well, None for one that has not ended; raises for one that failed."""

    def place_in_queue(self, prompt_id: str) -> int | None:
        """Return how many runs come before this one: 0 if it is running; None if it neither runs nor waits."""


class RunFollower:
    """One run, from its queuing to its result. Used once.

    The websocket brings events; that a run is over, and how, counts only once the server's records say so. They also
    tell a run that takes long from one that is gone, which no event ever does.
    """

    def __init__(
        self,
        records: Records,
        prompt_id: str,
        events: EventSocket,
        on_event: OnEvent | None,
        *,
        timeout_s: float,
        patience_s: float,
    ) -> None:
        """Prepare to follow a run.

        Args:
            records: whom to ask about the run.
            prompt_id: the run.
            events: where its events come from.
            on_event: called with each of them.
            timeout_s: seconds from now after which RunTimedOut is raised.
            patience_s: seconds for which a server that has answered may be away, or somebody else answer in its place,
                before ServerUnreachable or StrangeAnswer is raised.
        """
        self._records = records
        self._prompt_id = prompt_id
        self._events = events
        self._on_event = on_event
        self._timeout_s = timeout_s
        self._patience_s = patience_s
        now = time.monotonic()
        self._deadline = now + timeout_s
        self._heard_at = now
        self._next_look_at = now
        self._num_ahead: int | None = None

    def result(self) -> RunResult:
        """Wait for the end of the run.

        Raises:
            NodeFailed, RunInterrupted: how the run ended in place of a result.
            RunLost: the server was restarted and does not know the run any more.
            RunTimedOut, ServerUnreachable, StrangeAnswer: as the constructor's arguments say.
        """
        while True:
            result = self._step()
            if result is not None:
                return result
            if time.monotonic() > self._deadline:
                raise RunTimedOut(f"the run {self._prompt_id} was not over after {self._timeout_s:g} s")

    def _step(self) -> RunResult | None:
        """Take one event, or after a moment without one ask the server's records; the result if there is one."""
        event = self._events.next(self._prompt_id)
        if event is not None:
            self._tell(event)
        try:
            if event is None:
                result = self._after_silence()
            elif isinstance(event, Message) and event.ends_run():
                result = self._soon()
            else:
                result = None
        except (ServerUnreachable, StrangeAnswer):
            if time.monotonic() - self._heard_at > self._patience_s:
                raise
            return None
        self._heard_at = time.monotonic()
        return result

    def _after_silence(self) -> RunResult | None:
        result = self._records.result(self._prompt_id)
        if result is None and time.monotonic() >= self._next_look_at:
            result = self._look_for_it()
        if result is not None:
            self._pass_on_the_rest()
        return result

    def _look_for_it(self) -> RunResult | None:
        """Make sure that the run waits or runs; the result if it ended while we asked."""
        num_ahead = self._records.place_in_queue(self._prompt_id)
        self._next_look_at = time.monotonic() + _QUEUE_INTERVAL_S
        if num_ahead is None:
            result = self._records.result(self._prompt_id)
            if result is None:
                raise self._gone()
            return result
        self._events.note_that_run_is_known()
        if num_ahead != self._num_ahead:
            self._num_ahead = num_ahead
            self._tell(Queued(prompt_id=self._prompt_id, num_ahead=num_ahead))
        return None

    def _gone(self) -> Exception:
        """Say why the server has no record of the run. A restart, which forgets everything, cuts the websocket."""
        if self._events.was_cut:
            return RunLost(f"the server does not know the run {self._prompt_id} any more: it was restarted meanwhile")
        return RunInterrupted(
            f"the run {self._prompt_id} is neither queued nor recorded any more: somebody emptied the server's queue "
            "or its history"
        )

    def _soon(self) -> RunResult | None:
        """The result of a run whose end was just announced: its record follows the announcement by a moment."""
        for _ in range(_HISTORY_TRIES):
            result = self._records.result(self._prompt_id)
            if result is not None:
                return result
            time.sleep(_HISTORY_DELAY_S)
        return None

    def _pass_on_the_rest(self) -> None:
        """Hand over the events that a busy server sends late: up to the announced end, or to silence."""
        while (event := self._events.next(self._prompt_id)) is not None:
            self._tell(event)
            if isinstance(event, Message) and event.ends_run():
                return

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)


# What ComfyUI refuses a workflow with: not valid, larger than it takes, or such that validating it fails.
_REFUSALS = frozenset({400, 413, 500})

# Half a minute: a node that is in the middle of a step comes to its end.
_STOP_TRIES = 60
_STOP_DELAY_S = 0.5


class ComfyClient:
    """A connection to one server. A call that does not work raises `ComfyError` or one of its kinds."""

    def __init__(self, url: str, *, client_id: str | None = None) -> None:
        """Make a client; nothing is sent yet.

        Args:
            url: address of the server, such as "http://127.0.0.1:8188" or "https://NAME:PASSWORD@host/path"; ValueError
                is raised if it is none.
            client_id: how the server tells its listeners apart; made up if None. It goes with every workflow: without
                one the server leaves the outputs of cached nodes out of the history.
        """
        self._address = ServerAddress.parse(url)
        self._http = HttpConnection(self._address)
        self.url = self._address.url
        self.client_id = client_id or uuid.uuid4().hex

    def run(
        self,
        workflow: Workflow,
        *,
        on_event: OnEvent | None = None,
        timeout_s: float = 600.0,
        patience_s: float = 0.0,
        extra_data: Mapping[str, Any] | None = None,
        prompt_id: str | None = None,
    ) -> RunResult:
        """Queue a workflow and follow it to its end.

        Args:
            workflow: the workflow in API format.
            on_event: called with each event of this run, on this thread; if it raises, the run is stopped.
            timeout_s: seconds from now after which the run is stopped.
            patience_s: seconds for which the server may be away once the run is queued; after that it counts as lost.
            extra_data: passed on to the server, e.g. {"extra_pnginfo": {"workflow": ...}}.
            prompt_id: id for the run, from `new_prompt_id`; made up if None.

        Raises:
            WorkflowRefused, Unsendable, NodeFailed, RunInterrupted, RunLost, RunTimedOut, ServerUnreachable,
            StrangeAnswer.
        """
        # Known before it is sent: whatever happens while the server takes it, the run can be stopped.
        prompt_id = prompt_id or new_prompt_id()
        # Connected first, so that the run's first events are not missed.
        with EventSocket(self._address, self.client_id) as events:
            try:
                self.queue(workflow, extra_data=extra_data, prompt_id=prompt_id)
                follower = RunFollower(self, prompt_id, events, on_event, timeout_s=timeout_s, patience_s=patience_s)
                return follower.result()
            except (WorkflowRefused, Unsendable, NodeFailed, RunInterrupted, RunLost):
                raise
            except BaseException:
                self._abandon(prompt_id)
                raise

    def queue(
        self, workflow: Workflow, *, extra_data: Mapping[str, Any] | None = None, prompt_id: str | None = None
    ) -> str:
        """Put a workflow into the server's queue and return the id of the run.

        A server runs the valid part of a half-valid workflow; here that counts as refused, and the part is stopped.
        """
        prompt_id = prompt_id or new_prompt_id()
        body = {
            "prompt": workflow,
            "prompt_id": prompt_id,
            "client_id": self.client_id,
            "extra_data": dict(extra_data or {}),
        }
        response = self._http.request("POST", "/prompt", json=body, accept=_REFUSALS)
        answer = json_object(response)
        if not response.ok:
            raise refusal(answer, f"{response.status_code} {response.reason}")
        if answer.get("prompt_id") != prompt_id:
            raise StrangeAnswer(f"POST /prompt: the answer of {self.url} is not ComfyUI's: {response.text[:500]}")
        if node_errors := answer.get("node_errors"):
            self._abandon(prompt_id)
            raise WorkflowRefused({}, node_errors)
        return prompt_id

    def wait(self, prompt_id: str, *, on_event: OnEvent | None = None, timeout_s: float = 600.0) -> RunResult:
        """Follow a run that was queued with this client to its end; events from before this call are missed.

        A run that is not over after `timeout_s` seconds raises RunTimedOut and goes on.
        """
        with EventSocket(self._address, self.client_id) as events:
            return RunFollower(self, prompt_id, events, on_event, timeout_s=timeout_s, patience_s=0.0).result()

    def result(self, prompt_id: str) -> RunResult | None:
        """The result of a run that ended well, None for one that has not ended; raises for one that failed."""
        entry = self.history(prompt_id)
        return None if entry is None else result_of(prompt_id, entry)

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The server's record of a run that has ended, or None."""
        return self._http.get_object(f"/history/{prompt_id}").get(prompt_id)

    def place_in_queue(self, prompt_id: str) -> int | None:
        """Return how many runs come before this one: 0 if it is running; None if it neither runs nor waits."""
        queue = self._http.get_object("/queue")
        try:
            running = [entry[1] for entry in queue["queue_running"]]
            # The server gives its heap as it lies in memory; entries begin with their number, which is their order.
            waiting = [entry[1] for entry in sorted(queue["queue_pending"], key=lambda entry: entry[0])]
        except (LookupError, TypeError) as error:
            raise StrangeAnswer(f"GET /queue: the answer of {self.url} is not ComfyUI's: {str(queue)[:500]}") from error
        if prompt_id in running:
            return 0
        return len(running) + waiting.index(prompt_id) if prompt_id in waiting else None

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the run with this id if it is running now, or with None whatever is running."""
        self._http.request("POST", "/interrupt", json={} if prompt_id is None else {"prompt_id": prompt_id})

    def cancel_queued(self, prompt_id: str) -> None:
        """Take a run that has not begun out of the queue."""
        self._http.request("POST", "/queue", json={"delete": [prompt_id]})

    def object_info(self, node_class: str | None = None) -> dict[str, Any]:
        """The server's description of every node class, or of one: class -> description."""
        return self._http.get_object("/object_info" if node_class is None else f"/object_info/{node_class}")

    def free(self) -> None:
        """Have the server unload its models and forget the results of earlier runs."""
        self._http.request("POST", "/free", json={"unload_models": True, "free_memory": True})

    def upload(self, path: Path, *, folder: str = "input") -> str:
        """Copy a local file into a folder of the server; return its name there.

        A file of that name and content is taken as it is; beside one of another content ours gets a number.

        Args:
            path: the file, read whole into memory on its way.
            folder: "input", "output" or "temp".

        Raises:
            OSError: the file cannot be read.
            UploadRefused: it is larger than the server takes.
        """
        limit = self._http.get_object("/features").get("max_upload_size", math.inf)
        size = path.stat().st_size
        if size > limit:
            raise UploadRefused(
                f"{path} has {size / 2**20:.1f} MiB and {self.url} takes {limit / 2**20:.1f} MiB at most; copy "
                f"the file into the server's {folder} folder and give its name there, or start the server with "
                "a larger --max-upload-size"
            )
        with open(path, "rb") as file:
            form = {"files": {"image": (path.name, file)}, "data": {"type": folder}}
            answer = json_object(self._http.request("POST", "/upload/image", **form))
        if "name" not in answer:
            raise StrangeAnswer(f"POST /upload/image: {self.url} did not say under what name it keeps {path}")
        return "/".join(part for part in (answer.get("subfolder"), answer["name"]) if part)

    def get(self, path: str) -> requests.Response:
        """GET any path of the server; raises for a status that is an error."""
        return self._http.request("GET", path)

    def get_json(self, path: str) -> Any:
        """GET a path and decode its JSON."""
        return self._http.get_json(path)

    def read(self, file: OutputFile) -> bytes:
        """The content of a file that a run made. For large files use `download`. Raises ResultGone as that does."""
        return self._view(file).content

    def download(self, file: OutputFile, directory: Path, *, name: str | None = None) -> Path:
        """Copy a file that a run made into a local folder, in pieces; return where it is.

        It is called `name`, or as on the server. It appears only when it is complete, and replaces one of that name.

        Raises:
            ResultGone: the server does not have it any more.
            OSError: it cannot be written.
        """
        directory.mkdir(parents=True, exist_ok=True)
        # Whatever path the server's word contains, the file lands in `directory`.
        target = directory / (name or Path(file.filename).name)
        response = self._view(file, stream=True)
        try:
            with response, replacing(target) as partial, open(partial, "wb") as out:
                for piece in response.iter_content(1 << 20):
                    out.write(piece)
        except requests.RequestException as error:
            raise ServerUnreachable(f"{self.url} was lost in the middle of {file.filename}: {error}") from error
        return target

    def _view(self, file: OutputFile, *, stream: bool = False) -> requests.Response:
        response = self._http.request("GET", "/view", params=file.query(), stream=stream, accept={404})
        if response.status_code == 404:
            raise ResultGone(
                f"{self.url} does not have {file.filename} any more: somebody removed it, or the server was restarted, "
                "which empties its temp folder; queue the workflow again"
            )
        # ComfyUI shows no pages here, whatever a file is called: this would be a proxy's, saved under a video's name.
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise StrangeAnswer(f"GET /view: {self.url} answers with a page and not with {file.filename}")
        return response

    def _abandon(self, prompt_id: str) -> None:
        """Stop a run whether it is queued or running; the error that led here matters more than one from this.

        Asked until it has stopped: a sampler that delivers what is finished takes an interrupt for itself, and the next
        node begins.
        """
        try:
            self.cancel_queued(prompt_id)
            for _ in range(_STOP_TRIES):
                self.interrupt(prompt_id)
                if self.place_in_queue(prompt_id) is None:
                    return
                time.sleep(_STOP_DELAY_S)
        except ComfyError as error:
            logger.warning("could not stop the run %s: %s", prompt_id, error)


def new_prompt_id() -> str:
    """An id for a run that is not queued yet: a UUID in lower case, the one form that every server accepts."""
    return str(uuid.uuid4())
