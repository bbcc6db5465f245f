"""Shows a run's progress on stderr: bars in a terminal, lines in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from sfpp_client.protocol import Event, Message, Progress, Queued
from sfpp_client.workflow import Workflow, title_of

_LINE_INTERVAL_S = 10.0


class RunProgress:
    """Takes the events of a run and shows where it is."""

    def __init__(self, workflow: Workflow) -> None:
        """Show the nodes of a workflow by their titles."""
        self._titles = {node_id: f"{title_of(node)} ({node_id})" for node_id, node in workflow.items()}
        self._bar: tqdm | None = None
        self._node_id: str | None = None
        self._next_line_at = 0.0
        self._bars = sys.stderr.isatty()

    def __call__(self, event: Event) -> None:
        """Take an event of the run."""
        if isinstance(event, Queued):
            self._say("running" if not event.num_ahead else f"waiting, {event.num_ahead} before it")
        elif isinstance(event, Progress):
            self._enter(event.node_id)
            self._move(event)
        elif isinstance(event, Message) and event.kind == "executing" and event.data.get("node") is not None:
            self._enter(str(event.data["node"]))

    def close(self) -> None:
        """End the bar that is shown, if there is one."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _enter(self, node_id: str) -> None:
        if node_id == self._node_id:
            return
        self.close()
        self._node_id = node_id
        if not self._bars:
            self._say(self._title(node_id))
        self._next_line_at = time.monotonic() + _LINE_INTERVAL_S

    def _move(self, event: Progress) -> None:
        if self._bars:
            if self._bar is None:
                self._bar = tqdm(desc=self._title(event.node_id), total=event.maximum)
            self._bar.total = event.maximum
            self._bar.update(event.value - self._bar.n)
        elif time.monotonic() >= self._next_line_at:
            self._say(f"{self._title(event.node_id)}: {event.value:g} of {event.maximum:g}")
            self._next_line_at = time.monotonic() + _LINE_INTERVAL_S

    def _title(self, node_id: str) -> str:
        """Return how a node is called; one that was made while the workflow ran has only its id."""
        return self._titles.get(node_id, f"node {node_id}")

    def _say(self, words: str) -> None:
        self.close()
        print(f"queue: {words}", file=sys.stderr, flush=True)
