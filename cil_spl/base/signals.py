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


class _Raised:
    """The signal that was raised last; an exception may get lost in what cannot hand it on, such as a finaliser."""

    number: int | None = None


def check() -> None:
    """Raise a signal again whose exception got lost."""
    number, _Raised.number = _Raised.number, None
    if number is not None:
        raise _exception(number)


def _exception(number: int) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated`, as Ctrl-C raises, so that a killed run is marked; see :func:`check`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()
    _Raised.number = None

    def stop(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == owner:
            _Raised.number = number
            raise _exception(number)
        signal.signal(number, signal.SIG_DFL)  # a forked worker ends as it would without us
        os.kill(os.getpid(), number)

    before: dict[int, Any] = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        _Raised.number = None
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


class Held:
    """The signal that arrived within :func:`held_back`, if any."""

    def __init__(self) -> None:
        self.number: int | None = None

    def deliver(self) -> None:
        """Raise what the signal stands for, now that it may end the run."""
        if self.number is not None:
            raise _exception(self.number)


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
