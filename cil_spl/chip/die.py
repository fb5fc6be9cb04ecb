"""A die: how one real chip departs from the ideal one. Everything is off by default.

Each effect draws from a stream of its own, made of the die's seed, the effect and the layer: the same seed is the same
die, and switching one effect on leaves the others as they were. What happens to events by chance also depends on the
recording's own events, not on its place in a batch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from cil_spl.errors import RequestError


@dataclass(frozen=True)
class Die:
    """Deviations of one chip.

    Attributes:
        seed: which die.
        threshold_spread: standard deviation of the neurons' thresholds, as a fraction of the threshold.
        dead: fraction of neurons that never fire.
        stuck: fraction of neurons that fire at every event that reaches them.
        lost: fraction of events that vanish on their way into a core.
        jitter_us: standard deviation of an event's delay on its way into a core, in microseconds; events are handled
            in the order of their new times.
        reorder_us: events less than this far apart, in microseconds, may change places; times stay in order.

    Raises:
        RequestError: a value is out of range.
    """

    seed: int = 0
    threshold_spread: float = 0.0
    dead: float = 0.0
    stuck: float = 0.0
    lost: float = 0.0
    jitter_us: float = 0.0
    reorder_us: float = 0.0

    def __post_init__(self) -> None:
        fractions = ("dead", "stuck", "lost")
        for field in fields(self):
            value = getattr(self, field.name)
            top = 1.0 if field.name in fractions else 2.0**63 - 1 if field.name == "seed" else 1e9
            if not 0 <= value <= top:
                allowed = "0 to 1" if field.name in fractions else "0 or more"
                raise RequestError(f"target.die.{field.name}={value}: allowed is {allowed}")

    def thresholds(self, layer: int, threshold: int, shape: tuple[int, int, int]) -> np.ndarray:
        """Thresholds of a layer's neurons. int32, of the ``shape`` (y, x, f)."""
        spread = self._draw("threshold_spread", layer).standard_normal(shape) * self.threshold_spread
        found = np.clip(np.round(threshold * (1 + spread)), 1, 32767).astype(np.int32)
        found[self._draw("stuck", layer).random(shape) < self.stuck] = -32768
        found[self._draw("dead", layer).random(shape) < self.dead] = 1 << 20
        return found

    def on_the_way(self) -> np.ndarray:
        """What the compiled loops need to know: lost, jitter_us, reorder_us."""
        return np.array([self.lost, self.jitter_us, self.reorder_us])

    def _draw(self, effect: str, layer: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, [f.name for f in fields(self)].index(effect), layer])
