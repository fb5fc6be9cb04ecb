"""SynSense Speck: events one by one through integer neurons, no time bins. The simulator, or a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from cil_spl import evaluate as ev
from cil_spl.chip.die import Die, die_of
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.placement import place, place_network
from cil_spl.chip.simulator import ChipAnswer, run
from cil_spl.data.batches import Batch
from cil_spl.models.plan import Plan
from cil_spl.quantize import quantize
from cil_spl.targets import board


class Speck:
    """A Speck 2e/2f.

    Args:
        backend: ``auto`` takes a connected board and otherwise the simulator; ``simulator``; ``device``.
        die: deviations from the ideal chip (see :class:`cil_spl.chip.die.Die`); None for the ideal chip.
        threads: of the simulator.
        max_synops_per_second: rate of a core above which to warn. The vendor publishes no figure; None for no warning.

    Raises:
        RequestError: ``device`` without a board or without the real samna; a wrong setting of the die.
    """

    runs = "spikes"

    def __init__(
        self,
        *,
        name: str = "speck",
        backend: str = "auto",
        die: Mapping[str, Any] | None = None,
        threads: int | None = None,
        max_synops_per_second: float | None = None,
        **_: Any,
    ) -> None:
        self.name = name
        self.backend = board.choose(backend)
        self.threads, self.max_synops_per_second = threads, max_synops_per_second
        self.die = die_of(die, "target.die")

    def place(self, plan: Plan) -> list[str]:
        """Place the plan on cores before a weight exists; warnings for the person.

        Raises:
            RequestError: it does not fit; naming layer, need and the nearest core. A setting of the die is for a
                layer that there is not.
        """
        self.placement = place(plan)
        if self.die:
            self.die.check_layers([need.name for need in self.placement.needs])
        return list(self.placement.warnings)

    def quantize(self, net: nn.Sequential, plan: Plan) -> tuple[ChipNetwork, list[str]]:
        """By the chip's rule, each layer on its core."""
        chip, warnings = quantize(net, plan)
        return place_network(chip), warnings

    def load(self, chip: ChipNetwork, plan: Plan, like: nn.Sequential) -> None:
        """Take a network."""
        self.chip = chip
        self.answer = self.forward

    def run(self, chip: ChipNetwork, batch: Batch, *, record: Sequence[str] = (), die: Die | None = None) -> ChipAnswer:
        """What a chip answers to a batch; see :func:`cil_spl.chip.simulator.run`."""
        return run(chip, batch.events, batch.offsets, batch.edges_us, record=record, die=die, threads=self.threads)

    def forward(self, batch: Batch) -> ev.Activity:
        """Run a batch of recordings; the states are zero before each."""
        a = self.run(self.chip, batch, die=self.die)
        names = [layer.name for layer in self.chip.layers]
        return ev.Activity(
            counts=a.counts.astype(np.float64),
            events={name: a.events_per_layer[:, i] for i, name in enumerate(names)},
            synops={name: a.synops[:, i] for i, name in enumerate(names)},
            decision_us=a.decision_us,
            saturations={name: a.saturations[:, i] for i, name in enumerate(names)},
            dropped={name: a.dropped[:, i] for i, name in enumerate(names)} if a.dropped.any() else None,
        )

    def figures(self) -> dict[str, float]:
        """Memory that the placed network takes: entries of its cores, by layer and in all."""
        found: dict[str, float] = {}
        for what in ("kernel_entries", "neuron_entries"):
            by_layer = {need.name: float(getattr(need, what)) for need in self.placement.needs}
            found |= {what: sum(by_layer.values())} | {f"{what}/{name}": value for name, value in by_layer.items()}
        cores = zip(self.placement.needs, self.placement.cores, strict=True)
        return found | {f"core/{need.name}": float(core) for need, core in cores}

    def judge(self, metrics: Mapping[str, float]) -> list[str]:
        """Warnings about cores that would work faster than the chip can, or that dropped events on the given die;
        ``metrics`` are those of an evaluation."""
        limit = self.max_synops_per_second
        rates = {k.rpartition("/")[2]: v for k, v in metrics.items() if k.startswith("synops_per_second/")}
        dropped = {k.rpartition("/")[2]: v for k, v in metrics.items() if k.startswith("dropped/") and v > 0}
        return [
            f"layer {name}: the congestion balancer dropped {n:.3g} events a recording (target.die.fifo)"
            for name, n in dropped.items()
        ] + [
            f"layer {name}: {rate:.3g} synaptic operations a second on its core, above "
            f"target.max_synops_per_second={limit:g}; there the chip stalls or drops events. Use fewer features, or "
            "pool earlier"
            for name, rate in rates.items()
            if limit is not None and rate > limit
        ]

    def output_events(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Times (microseconds) and classes of one recording's output events."""
        a = run(self.chip, batch.events, batch.offsets, batch.edges_us, record=("output",), die=self.die)
        assert a.output is not None
        return a.output.t, a.output.k
