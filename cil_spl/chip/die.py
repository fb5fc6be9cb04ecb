"""A die: how one real chip departs from the ideal one. Everything is off by default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Die:
    """Deviations of one chip; the same seed is the same chip."""

    seed: int = 0
