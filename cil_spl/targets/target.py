"""What pipeline, methods and finished runs ask of a target: where a network is deployed, and what it holds then.

A target is any class with the methods of :class:`Target`; ``targets/software.py`` is the one to copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from cil_spl.base import ranks
from cil_spl.base.errors import RequestError
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.quantize import integer_twin
from cil_spl.chip.rounding import CHIP, Precision
from cil_spl.data.batches import Batch, Batches
from cil_spl.models.net import Net
from cil_spl.models.plan import Plan
from cil_spl.tasks.evaluation import Answer


@dataclass(frozen=True)
class Asked:
    """What a run asks of its target, beside the plan.

    Attributes:
        method: its name, for messages.
        family: of the network that is trained (``model.family``).
        neuron: the options ``model.neuron``.
        init_rate: spread that fresh weights are scaled to.
        observer: the options ``observer``, if the target shall be in the loop; None if not.
        converts: whether the method makes a spiking network of a CNN.
        spikes: whether that network alone is its result.
        net: a user's own network that spikes, whose neurons are not those of ``neuron``; None for a plan's.
    """

    method: str
    family: str
    neuron: Mapping[str, Any]
    init_rate: float = 1.0
    observer: Mapping[str, Any] | None = None
    converts: bool = False
    spikes: bool = False
    net: Net | None = None


@dataclass(frozen=True)
class TargetNetwork:
    """A network as a target holds it.

    Attributes:
        net: the trained float network.
        chip: its chip network; None where the target has none.
        rounded: an ordinary network with rounded numbers, where they are not those of a chip network.
        warnings: what the user should know about its rounding.
    """

    net: Net
    chip: ChipNetwork | None = None
    rounded: Net | None = None
    warnings: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """The network's plan."""
        return self.net.plan

    def quantized(self) -> Net | None:
        """The same network with its rounded numbers, to be run without the target; None where nothing is rounded."""
        return self.rounded if self.chip is None else integer_twin(self.chip, self.net)


class Target(Protocol):
    """Where a network is deployed.

    Attributes:
        name: what results call it.
        backend: says in output and record what ran.
        family: of the networks that it runs, ``snn`` or ``cnn``.
        takes: kinds of data that it runs on: ``events`` of recordings, ``values`` of samples.
        as_trained: whether its answer is that of the trained network in time steps, nothing rounded.
    """

    name: str
    backend: str
    family: Literal["snn", "cnn"]
    takes: tuple[str, ...]
    as_trained: bool

    def check(self, plan: Plan, requires: Asked) -> list[str]:
        """Warnings about a run, before any work.

        Raises:
            RequestError: the target cannot do it.
        """

    def quantize(self, net: Net, precision: Precision = CHIP, calibration: Batches | None = None) -> TargetNetwork:
        """The network as the target holds it, rounded to ``precision`` where the target rounds; ``calibration`` has
        training recordings to choose ranges by."""

    def answer(self, network: TargetNetwork) -> Answer:
        """The deployed network as an evaluation sees it."""

    def figures(self, network: TargetNetwork) -> dict[str, float]:
        """What the network takes of the target: parameters, memory."""

    def judge(self, metrics: Mapping[str, float]) -> list[str]:
        """Warnings about what an evaluation found."""

    def output_events(self, network: TargetNetwork, batch: Batch) -> tuple[np.ndarray, np.ndarray] | None:
        """Times (microseconds) and numbers of one recording's output events; None where there are none."""

    def close(self) -> None:
        """Give back what it holds, such as a board."""


def refuse_loop(target: str, requires: Asked) -> None:
    """Refuse a chip in the loop, on a target that is none.

    Raises:
        RequestError: one is asked for.
    """
    if requires.observer is not None:
        raise RequestError(
            f"target={target}: observer={requires.observer['name']} puts the target's chip in the loop; use "
            "target=speck, or a method without a chip, such as method=bptt"
        )


@contextmanager
def released(target: Any) -> Iterator[Any]:
    """A target that holds a board gives it back at the end, whatever happens."""
    try:
        yield target
    finally:
        getattr(target, "close", lambda: None)()
        ranks.stop()
