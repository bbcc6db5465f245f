"""One function over many tasks, in processes of which each may die without taking another task with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

_SPAWN: SpawnContext = multiprocessing.get_context("spawn")


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerDied:
    """What there is instead of a result if a worker's process ended in the middle of a task."""

    exit_code: int
    """As `multiprocessing.Process.exitcode`: minus the signal's number if a signal ended it."""

    def __str__(self) -> str:
        if self.exit_code >= 0:
            return f"the process that rated it ended with exit status {self.exit_code}; see its output."
        name = signal.Signals(-self.exit_code).name
        hint = "; the machine may have run out of memory, try fewer jobs" if name == "SIGKILL" else ""
        return f"the process that rated it was ended by {name}{hint}."


def run_in_processes(
    make_work: Callable[[], Callable[[Task], Result]], tasks: Sequence[Task], num_processes: int
) -> Iterator[tuple[Task, Result | WorkerDied]]:
    """Yield each task with its result, as they are finished. A worker that dies is replaced.

    Closing the iterator, or an interrupt, ends all workers at once. If this process is killed, each worker ends its
    task and leaves.

    concurrent.futures does the same for work that never crashes: there one dead process fails every task that is
    running or waiting, and workers outlive a parent that was killed.

    make_work: called once in each worker, for what takes long to load; it and the tasks are pickled.
    """
    waiting = deque(tasks)
    running: dict[Connection, _Worker[Task, Result]] = {}
    try:
        for _ in range(min(num_processes, len(waiting))):
            worker = _Worker(make_work, waiting.popleft())
            running[worker.connection] = worker
        while running:
            for connection in wait(list(running)):
                worker = running.pop(connection)
                task, result = worker.task, worker.result()
                if not waiting or isinstance(result, WorkerDied):
                    worker.end()
                if waiting and isinstance(result, WorkerDied):
                    worker = _Worker(make_work, waiting.popleft())
                    running[worker.connection] = worker
                elif waiting:
                    worker.give(waiting.popleft())
                    running[worker.connection] = worker
                yield task, result
    finally:
        for worker in running.values():
            worker.end()


def parent_is_alive() -> bool:
    """Whether whoever wants the results of this worker is still there; True in a process that is no worker."""
    parent = multiprocessing.parent_process()
    return parent is None or parent.is_alive()


class _Worker(Generic[Task, Result]):
    """A process and the task that it is at."""

    def __init__(self, make_work: Callable[[], Callable[[Task], Result]], task: Task) -> None:
        self.task = task
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_serve, args=(make_work, theirs), daemon=True)
        with _interrupts_held():
            self._process.start()
        # Kept open here, it would hide that the worker is gone.
        theirs.close()
        self.give(task)

    def give(self, task: Task) -> None:
        """Begin a task. If the worker is dead already, `result` says so."""
        self.task = task
        try:
            self.connection.send(task)
        except BrokenPipeError:
            pass

    def result(self) -> Result | WorkerDied:
        """Wait for the result of the task."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            return WorkerDied(exit_code=self._process.exitcode or 0)

    def end(self) -> None:
        """End the process whatever it is doing."""
        self._process.terminate()
        self._process.join()
        self.connection.close()


def _serve(make_work: Callable[[], Callable[[Task], Result]], connection: Connection) -> None:
    """The life of a worker: until its parent closes the connection or dies."""
    if os.name == "nt":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = make_work()
    while True:
        try:
            task = connection.recv()
        except (EOFError, ConnectionError):
            return
        result = work(task)
        try:
            connection.send(result)
        except ConnectionError:
            return


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that start in the block never see Ctrl-C, which a terminal sends to all: their parent ends them.

    Held here and not in the worker, whose first second goes into imports. An interrupt meanwhile comes afterwards.
    """
    if os.name == "nt":
        yield
        return
    # Python's own helper process is made by the first start, and lets interrupts through again while it is (3.11).
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
