"""A die: how one real chip departs from the ideal one. Everything is off by default.

Each effect draws from a stream of its own, made of the die's seed, the effect and the layer: the same seed is the same
die, and switching one effect on leaves the others as they were. What happens to events by chance also depends on the
recording's own events, not on its place in a batch.

What happens to an event on its way, in this order; an event that reaches no neuron is no event here:

1. It may be ``lost``.
2. It may be held up (``jitter_us``, ``reorder_us``): it reaches the core later, and other events may pass it.
3. The core handles one event at a time and needs ``additions / synops_per_second`` for each, in whole nanoseconds. An
   event that finds it busy waits in the core's input queue, first in, first out. Where ``fifo`` events wait already the
   congestion balancer drops it, and it is counted; without ``fifo`` the queue has no end, which is the stalling core.
   The vendor publishes neither rate nor depth nor what an event costs: rate and depth are the user's, the cost is
   taken to be its additions, and a core that stalls does not hold up the cores before it.
4. Its neurons add and fire at the moment at which the core takes it up. Of what they fire the core's decimator lets
   one event in ``decimate`` pass; where it stands when a recording begins is chance. What it holds back is not among
   the layer's events.

The slow clock ticks for the first time one period after a recording's first event and for the last time not after its
last event. At a tick every neuron of a layer adds ``leak``, is clipped and may fire one event, as at an event; ticks
take no time of the core and are not among its synaptic operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, get_args

import numpy as np
from annotated_types import Ge, Le, Lt

from cil_spl.base.errors import RequestError
from cil_spl.base.options import check_fields, checked

Size = Annotated[float, Ge(0), Le(1_000_000_000)]
Fraction = Annotated[float, Ge(0), Le(1)]
Rate = Annotated[float, Ge(1)]
Depth = Annotated[int, Ge(0), Le(2**31)]
Pass = Literal[1, 2, 4, 8, 16, 32, 128, 256, 512]  # 64 is not among the chip's
Leak = Annotated[int, Ge(-32768), Le(32767)]


@dataclass(frozen=True)
class Die:
    """Deviations of one chip. Those that are typed with a Mapping can differ between layers: a number
    for all, or one by layer name.

    Attributes:
        seed: which die.
        threshold_spread: standard deviation of the neurons' thresholds, as a fraction of the threshold.
        dead: fraction of neurons that never fire.
        stuck: fraction of neurons that fire at every event that reaches them.
        lost: fraction of events that vanish on their way into a core.
        jitter_us: standard deviation of an event's delay on its way into a core, in microseconds (exponential, as it
            cannot be early: the mean is the same); an event of a core may pass others.
        reorder_us: an event is held up on its way into a core by less than this, in microseconds (uniform): events
            less than this far apart may change places, others keep theirs.
        synops_per_second: rate of a core, synaptic operations per second; None for no limit.
        fifo: events that wait at a core's input before the congestion balancer drops more; None for no end.
        decimate: of this many events of a core one passes: 1, 2, 4, 8, 16, 32, 128, 256 or 512.
        leak: what every neuron's state takes at a tick of the slow clock, in the chip's integers (16 bit).
        leak_period_us: time between ticks, in microseconds.
        where: the node of the configuration that it comes from, for messages.

    Raises:
        RequestError: a value is out of range.
    """

    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    threshold_spread: Size = 0.0
    dead: Fraction = 0.0
    stuck: Fraction = 0.0
    lost: Fraction = 0.0
    jitter_us: Size = 0.0
    reorder_us: Size = 0.0
    synops_per_second: Rate | Mapping[str, Rate] | None = None
    fifo: Depth | Mapping[str, Depth] | None = None
    decimate: Pass | Mapping[str, Pass] = 1
    leak: Leak | Mapping[str, Leak] = 0
    leak_period_us: Annotated[float, Ge(0.001), Le(1_000_000_000)] | None = None
    where: str = field(default="target.die", compare=False, repr=False, metadata={"option": False})

    def __post_init__(self) -> None:
        check_fields(self, self.where)
        if self.fifo is not None and self.synops_per_second is None:
            raise RequestError(
                f"{self.where}.fifo={self.fifo}: a core without a rate never waits; set synops_per_second"
            )
        leaks = self.leak.values() if isinstance(self.leak, Mapping) else [self.leak]
        if any(leaks) and self.leak_period_us is None:
            raise RequestError(f"{self.where}.leak={self.leak}: needs the slow clock; set leak_period_us")

    def thresholds(self, layer: int, threshold: int, shape: tuple[int, int, int]) -> np.ndarray:
        """Thresholds of a layer's neurons. int32, of the ``shape`` (y, x, f)."""
        spread = self._draw("threshold_spread", layer).standard_normal(shape) * self.threshold_spread
        found = np.clip(np.round(threshold * (1 + spread)), 1, 32767).astype(np.int32)
        found[self._draw("stuck", layer).random(shape) < self.stuck] = -32768
        found[self._draw("dead", layer).random(shape) < self.dead] = 1 << 20
        return found

    def by_layer(self, setting: str, names: Sequence[str]) -> list[Any]:
        """One of the settings that can differ between layers, for each of ``names``; its default where none is given.

        Raises:
            RequestError: it is given for a layer that is not among ``names``.
        """
        value = getattr(self, setting)
        if not isinstance(value, Mapping):
            return [value] * len(names)
        for name, one in value.items():
            if name not in names:
                raise RequestError(
                    f"{self.where}.{setting}.{name}={one}: no such layer; the chip's layers are {', '.join(names)}"
                )
        return [value.get(name, getattr(Die, setting)) for name in names]

    def check_layers(self, names: Sequence[str]) -> None:
        """Refuse settings for layers that are not among ``names``.

        Raises:
            RequestError: names setting, layer and the layers there are.
        """
        for setting in BY_LAYER:
            self.by_layer(setting, names)

    def _draw(self, effect: str, layer: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, SETTINGS.index(effect), layer])


DECIMATION = get_args(Pass)
SETTINGS = tuple(f.name for f in fields(Die) if f.name != "where")
BY_LAYER = ("synops_per_second", "fifo", "decimate", "leak")


def die_of(values: Mapping[str, Any] | None, where: str) -> Die | None:
    """A die from the values of the configuration's node ``where``; None for the ideal chip.

    Raises:
        RequestError: a key that is not known, or a value that is out of range.
    """
    if not values:
        return None
    return Die(**{name: value for name, value in checked(Die, values, where).items() if name in values}, where=where)
