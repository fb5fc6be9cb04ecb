"""SynSense Speck: events one by one through integer neurons, no time bins. The simulator, or a board."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from cil_spl import evaluate as ev
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.placement import place, place_network
from cil_spl.chip.simulator import run
from cil_spl.data.batches import Batch
from cil_spl.errors import RequestError
from cil_spl.models.plan import Plan
from cil_spl.quantize import quantize
from cil_spl.targets import board


class Speck:
    """A Speck 2e/2f.

    Args:
        backend: ``auto`` takes a connected board and otherwise the simulator; ``simulator``; ``device``.
        die: deviations from the ideal chip (see :class:`cil_spl.chip.die.Die`); None for the ideal chip.
        threads: of the simulator.

    Raises:
        RequestError: ``device`` without a board or without the real samna.
    """

    runs = "spikes"

    def __init__(
        self,
        *,
        name: str = "speck",
        backend: str = "auto",
        die: Mapping[str, Any] | None = None,
        threads: int | None = None,
        **_: Any,
    ) -> None:
        self.name = name
        self.backend = board.choose(backend)
        self.threads = threads
        self.die = None
        if die:
            raise RequestError(f"target.die={dict(die)}: this version simulates the ideal chip only; leave it null")

    def place(self, plan: Plan) -> list[str]:
        """Place the plan on cores before a weight exists; warnings for the person.

        Raises:
            RequestError: it does not fit; naming layer, need and the nearest core.
        """
        return list(place(plan).warnings)

    def quantize(self, net: nn.Sequential, plan: Plan) -> tuple[ChipNetwork, list[str]]:
        """By the chip's rule, each layer on its core."""
        chip, warnings = quantize(net, plan)
        return place_network(chip), warnings

    def load(self, chip: ChipNetwork, plan: Plan, like: nn.Sequential) -> None:
        """Take a network."""
        self.chip = chip
        self.answer = self.forward

    def forward(self, batch: Batch) -> ev.Activity:
        """Run a batch of recordings; the states are zero before each."""
        a = run(self.chip, batch.events, batch.offsets, batch.edges_us, die=self.die, threads=self.threads)
        names = [layer.name for layer in self.chip.layers]
        return ev.Activity(
            counts=a.counts.astype(np.float64),
            events={name: a.events_per_layer[:, i] for i, name in enumerate(names)},
            synops={name: a.synops[:, i] for i, name in enumerate(names)},
            decision_us=a.decision_us,
            saturations={name: a.saturations[:, i] for i, name in enumerate(names)},
        )

    def output_events(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Times (microseconds) and classes of one recording's output events."""
        a = run(self.chip, batch.events, batch.offsets, batch.edges_us, record=("output",), die=self.die)
        assert a.output is not None
        return a.output.t, a.output.k
