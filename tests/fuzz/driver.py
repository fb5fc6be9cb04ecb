"""All kinds by family, and trying many cases of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from tests.fuzz.kinds import Kind, Outcome, Tally, attempt

# Family: the module and the list in it, and the family's share of all cases.
FAMILIES: dict[str, tuple[str, str, int]] = {
    "recordings": ("recordings", "KINDS", 22),
    "samples": ("images", "KINDS", 18),
    "sets of a user's own": ("own", "KINDS", 12),
    "chip networks, NIR, counts": ("chips", "KINDS", 16),
    "weights and checkpoints": ("weights", "KINDS", 9),
    "run folders": ("runfolders", "KINDS", 13),
    "data cache": ("cached", "KINDS", 3),
    "KEY=VALUE, validate": ("words", "KINDS", 6),
    "KEY=VALUE, run": ("words", "RUNS", 1),
}


def kinds_of(family: str) -> list[tuple[Kind, int]]:
    """The kinds of a family, and the share of each."""
    module, name, _ = FAMILIES[family]
    return getattr(import_module(f"tests.fuzz.{module}"), name)


def find(word: str) -> Iterator[tuple[str, Kind, int]]:
    """The families and kinds of this name, or with it in theirs."""
    every = [(family, kind, share) for family in FAMILIES for kind, share in kinds_of(family)]
    exact = [one for one in every if word in (one[0], one[1].name)]
    yield from exact or [one for one in every if word in one[0] or word in one[1].name]


def place(kind: Kind, below: Path) -> Kind:
    """A kind in an empty folder of its own."""
    folder = below / kind.name.replace(" ", "-").replace("/", "-")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    kind.prepare(folder)
    return kind


def numbers_of(share: int, of: int, cases: int | None, seconds: float | None) -> Iterator[int]:
    """The numbers of the cases of a kind: so many, or until its part of the time is over."""
    began, number = time.monotonic(), 0
    while True:
        if cases is not None and number >= -(-cases * share // of):
            return
        if seconds is not None and time.monotonic() - began > seconds * share / of:
            return
        yield number
        number += 1


def run_kind(kind: Kind, numbers: Iterator[int] | range, seed: int, tally: Tally, before: object = None) -> Tally:
    """Cases of a kind that was placed.

    Args:
        before: called with the kind's and the case's name ahead of each.
    """
    for number in numbers:
        if callable(before):
            before(kind.name, number)
        tally.add(attempt(kind, number, seed))
    return tally


def line_of(one: Outcome, seed: int) -> str:
    """The command that repeats a case."""
    return f"make fuzz ARGS=\"--only '{one.kind}' --case {one.number} --seed {seed}\""
