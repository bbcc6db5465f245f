"""Copies that run beside the computation, on devices that can."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch


class SideStream:
    """A second queue of work of a device, which waits for the first and is waited for only when told.

    A device without queues of its own (the CPU) does everything in the order in which it is asked.
    """

    def __init__(self, device: torch.device) -> None:
        queues = None if device.type == "cpu" else getattr(torch, device.type, None)
        self._device = device
        self._queues = queues if hasattr(queues, "Stream") else None
        self._stream = self._queues.Stream(device) if self._queues else None

    @property
    def runs_beside(self) -> bool:
        """Whether there is a second queue: only then may a copy be asked for without waiting for it."""
        return self._queues is not None

    def after_computation(self) -> AbstractContextManager[object]:
        """Queue what the body asks for behind all that was computed so far, beside what is computed next."""
        if self._queues is None:
            return nullcontext()
        self._stream.wait_stream(self._queues.current_stream(self._device))
        return self._queues.stream(self._stream)

    def join(self) -> None:
        """Make what is computed next wait for all that was queued here."""
        if self._queues is not None:
            self._queues.current_stream(self._device).wait_stream(self._stream)

    def uses(self, tensor: torch.Tensor) -> None:
        """Keep the memory of a tensor, once it is dropped, until what is queued here by then is done."""
        if self._queues is not None:
            tensor.record_stream(self._stream)

    def finish(self) -> None:
        """Wait until all that was queued here is done."""
        if self._queues is not None:
            self._stream.synchronize()
