"""A case: a sound input, one damage, one read. What may come of it, and how it is judged.

A kind of input is tried case by case; a case is drawn from the seed, the kind's name and its own number alone, so that
one line repeats it. A reader may take what it is given or refuse it by ``RequestError``. Anything else it raises, a
message that is none, and a case that does not end are failures; so is damage to a file of ours that nobody notices.
"""

from __future__ import annotations

import dataclasses
import logging
import random
import shutil
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cil_spl.base import files
from cil_spl.base.errors import RequestError

LIMIT_S = 20
Damage = Callable[[random.Random, Path], str]  # changes a file, says how
Read = Callable[[], Any]

REFUSED, UNCHANGED, WARNED, ACCEPTED = "refused", "unchanged", "warned", "accepted"
TRACEBACK, HANG, DAMAGE, WORDS = "traceback", "hang", "damage accepted", "no message"
FAILURES = (TRACEBACK, HANG, DAMAGE, WORDS)


class Kind(Protocol):
    """Something that is read."""

    name: str

    def prepare(self, folder: Path) -> None:
        """Called once, with an empty folder for the kind."""

    def case(self, rng: random.Random) -> Case:
        """One case."""


@dataclass
class Case:
    """What was done to the input, how to read it, and whether a reader that takes it does right."""

    what: str
    read: Read
    sound: Any = None  # what the sound input says, where another content must not be taken
    ours: bool = False


@dataclass
class Files:
    """Files that are written once, and damaged in each case anew.

    Attributes:
        make: writes them into an empty folder; returns those to damage.
        read: the folder, as a user's command would.
        damages: what a disk, a network or a cut-off copy does; none may be taken, where a file is ``ours``.
        edits: what someone does who knows the format, or another program; these may be taken.
        ours: whether cilspl writes the file, with a checksum.
    """

    name: str
    make: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], Any]
    damages: Sequence[Damage]
    edits: Sequence[Damage] = ()
    ours: bool = False
    _folder: Path = field(default_factory=Path)
    _targets: Sequence[Path] = ()
    _held: dict[Path, bytes] = field(default_factory=dict)
    _sound: Any = None

    def prepare(self, folder: Path) -> None:
        self._folder = folder
        self._targets = list(self.make(folder))
        self._held = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self._sound = print_of(self.read(folder)) if self.ours else None
        self._restore()

    def _restore(self) -> None:
        """The files as they were written; where a case left others, these go."""
        for path in sorted(self._folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                if path in self._held or not any(path.iterdir()):
                    shutil.rmtree(path)
            elif path not in self._held:
                path.unlink()
        for path, content in self._held.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.is_file() or path.read_bytes() != content:
                path.write_bytes(content)

    def case(self, rng: random.Random) -> Case:
        self._restore()
        path = rng.choice(self._targets)
        edits = self.edits and (not self.damages or rng.random() < 0.6)
        damage = rng.choice(self.edits if edits else self.damages)
        what = f"{path.relative_to(self._folder)}: {damage(rng, path)}"
        return Case(what, lambda: self.read(self._folder), self._sound, self.ours and not edits)


@dataclass
class Values:
    """What is handed over in Python or typed: drawn in each case."""

    name: str
    draw: Callable[[random.Random, Path], Case]
    make: Callable[[Path], Any] = lambda folder: None
    _folder: Path = field(default_factory=Path)

    def prepare(self, folder: Path) -> None:
        self._folder = folder
        self.make(folder)

    def case(self, rng: random.Random) -> Case:
        return self.draw(rng, self._folder)


@dataclass
class Outcome:
    """What came of a case."""

    kind: str
    number: int
    result: str
    seconds: float
    what: str
    said: str = ""


@dataclass
class Tally:
    """What came of the cases of some kinds."""

    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    seconds: float = 0.0
    failures: list[Outcome] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return sum(self.counts.values())

    def add(self, one: Outcome) -> None:
        self.counts[one.result] += 1
        self.seconds += one.seconds
        self.slowest = max(self.slowest, one.seconds)
        if one.result in FAILURES:
            self.failures.append(one)


class Refused(Exception):
    """What a command said, with the exit code of a wrong request."""


class Hang(BaseException):
    """A case that does not end."""


class _Listener(logging.Handler):
    """What was warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.heard.append(record.getMessage())


@contextmanager
def _listening() -> Iterator[list[str]]:
    """What cilspl warns of, and nothing on the terminal; what was said before may be said again."""
    files._warned.clear()
    log, listener = logging.getLogger("cil_spl"), _Listener()
    before = log.propagate
    log.addHandler(listener)
    log.propagate = False
    try:
        yield listener.heard
    finally:
        log.removeHandler(listener)
        log.propagate = before


@contextmanager
def _limit(seconds: float) -> Iterator[None]:
    def stop(signum: int, frame: object) -> None:
        raise Hang(f"over {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attempt(kind: Kind, number: int, seed: int, limit_s: float = LIMIT_S) -> Outcome:
    """One case of a kind that was prepared."""
    case = kind.case(random.Random(f"{seed} {kind.name} {number}"))
    began = time.monotonic()
    said, heard = "", []
    try:
        with _limit(limit_s), _listening() as heard:
            found = case.read()
            if case.ours and not heard:
                found = print_of(found)
        result = WARNED if heard else UNCHANGED if case.ours and found == case.sound else ACCEPTED
        if case.ours and result == ACCEPTED:
            result, said = DAMAGE, "read, without an error and without a warning, as another content"
    except (RequestError, Refused) as error:
        said = str(error)
        result = WORDS if _wrong_words(said) else REFUSED
    except Hang:
        result, said = HANG, traceback.format_exc()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        result, said = TRACEBACK, traceback.format_exc()
    return Outcome(kind.name, number, result, time.monotonic() - began, case.what, said)


def _wrong_words(text: str) -> bool:
    """Whether a message is none: empty, over lines (a list of ours is indented), or with what a terminal obeys."""
    first, *more = text.rstrip("\n").split("\n")
    return (
        not first.strip() or not all(line.startswith("  ") for line in more) or not text.replace("\n", "").isprintable()
    )


def print_of(value: Any) -> Any:
    """A value as one that can be compared: arrays and tensors by type, shape and bytes."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic):
        array = np.ascontiguousarray(value)
        return str(array.dtype), array.shape, array.tobytes()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: print_of(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): print_of(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [print_of(inner) for inner in value]
    return repr(value)
