"""Ending a run well when a keyboard or a cluster's scheduler asks it to."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What a keyboard and a cluster's scheduler send to end a run; torchrun passes them on to its processes."""


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that an interrupt or a termination signal sets: the step under way is finished and saved first."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = [signal.signal(number, lambda *_: stop.set()) for number in STOP_SIGNALS]
    try:
        yield stop
    finally:
        for number, handler in zip(STOP_SIGNALS, previous, strict=True):
            signal.signal(number, handler)


def leave_stopping_alone(worker: int) -> None:
    """In a worker: such a signal often goes to a whole process group, but the run still needs its batch to end well."""
    del worker
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
