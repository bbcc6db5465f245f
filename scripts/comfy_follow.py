"""Follows one run on a ComfyUI server to its end, however the connection behaves meanwhile."""

from __future__ import annotations

import time
from typing import Protocol

from scripts.comfy_errors import RunInterrupted, RunLost, RunTimedOut, ServerUnreachable, StrangeAnswer
from scripts.comfy_events import Event, EventSocket, Message, OnEvent, Queued
from scripts.comfy_results import RunResult

_HISTORY_DELAY_S = 0.05
_HISTORY_TRIES = 20

# The server's answer about its queue holds every workflow in it, so it is asked for more rarely than the history.
_QUEUE_INTERVAL_S = 5.0


class Records(Protocol):
    """What a server knows about its runs."""

    def result(self, prompt_id: str) -> RunResult | None:
        """The result of a run that ended well, None for one that has not ended; raises for one that failed."""

    def place_in_queue(self, prompt_id: str) -> int | None:
        """How many runs come before this one: 0 if it is running; None if it neither runs nor waits."""


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
        """Why the server has no record of the run. A restart, by which it forgets everything, cuts the websocket."""
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
