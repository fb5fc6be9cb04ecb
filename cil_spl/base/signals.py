"""SIGINT and SIGTERM: both end a run as an exception, and neither cuts short what has to be written whole."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

BOTH: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM: ends a run as Ctrl-C does."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated`, as Ctrl-C raises, so that a killed run is marked."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == owner:
            raise Terminated
        signal.signal(number, signal.SIG_DFL)  # a forked worker ends as it would without us
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


class Held:
    """The signal that arrived within :func:`held_back`, if any."""

    def __init__(self) -> None:
        self.number: int | None = None

    def deliver(self) -> None:
        """Raise what the signal stands for, now that it may end the run."""
        if self.number is not None:
            raise Terminated if self.number == signal.SIGTERM else KeyboardInterrupt


@contextlib.contextmanager
def held_back() -> Iterator[Held]:
    """Within it a signal is only noted, for :meth:`Held.deliver`; a second one is raised at once."""
    held = Held()
    if threading.current_thread() is not threading.main_thread():
        yield held
        return
    owner = os.getpid()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        handler = before[number]
        if os.getpid() == owner and held.number is None:
            held.number = number
        elif callable(handler):
            handler(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    try:
        for number in BOTH:
            before[number] = signal.getsignal(number)
            if before[number] != signal.SIG_IGN:
                signal.signal(number, note)
        yield held
    finally:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
