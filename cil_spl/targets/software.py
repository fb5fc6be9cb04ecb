"""The time-stepped network as its own target: what a simulation without a chip reports."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from cil_spl.chip import bounds
from cil_spl.chip.quantize import check_roundable, quantize
from cil_spl.chip.rounding import CHIP, Precision
from cil_spl.data.batches import Batch, Batches
from cil_spl.models import answers
from cil_spl.models.net import Net
from cil_spl.models.plan import Plan
from cil_spl.targets.target import Asked, TargetNetwork, refuse_loop
from cil_spl.tasks.evaluation import Answer


class Software:
    """The network in time steps, as it was trained, or rounded.

    Args:
        precision: ``float32``, the trained network; or ``int8``, its weights and states rounded by the chip's rule.
    """

    takes = ("events", "values")
    backend = "stepped"
    family: Literal["snn", "cnn"] = "snn"

    def __init__(self, *, name: str = "software", precision: Literal["float32", "int8"] = "float32") -> None:
        self.name, self.precision, self.as_trained = name, precision, precision == "float32"

    def check(self, plan: Plan, requires: Asked) -> list[str]:
        """Any plan and any neurons go in float32; the rule that rounds them needs a lower bound.

        Raises:
            RequestError: a chip in the loop; a plan or neurons that cannot be rounded.
        """
        refuse_loop(self.name, requires)
        if self.precision == "int8":
            check_roundable(plan, requires.net, "target.precision=int8", "target.precision=float32")
            if requires.net is None:
                bounds.check_neurons(requires.neuron, requires.init_rate)
        return []

    def quantize(self, net: Net, precision: Precision = CHIP, calibration: Batches | None = None) -> TargetNetwork:
        """By the chip's rule, leaky neurons too and without a core for each layer; or as it is."""
        if self.precision == "float32":
            return TargetNetwork(net)
        chip, warnings = quantize(net, precision, leaky=True)
        return TargetNetwork(net, chip, warnings=tuple(warnings))

    def answer(self, network: TargetNetwork) -> Answer:
        """In time steps, rounded where it has been."""
        rounded = network.quantized()
        return answers.stepped_answer(network.net if rounded is None else rounded)

    def figures(self, network: TargetNetwork) -> dict[str, float]:
        """How many weights."""
        return {"parameters": float(answers.n_weights(network.net))}

    def judge(self, metrics: Mapping[str, float]) -> list[str]:
        """A simulation has no rate to exceed."""
        return []

    def output_events(self, network: TargetNetwork, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Times (microseconds, the end of the bin) and numbers of one recording's output events."""
        _, _, edges_us = batch.recorded()
        counts = self.answer(network)(batch).counts[0].astype(int)  # T K
        t, k = np.nonzero(counts)
        return np.repeat(edges_us[0, t + 1], counts[t, k]), np.repeat(k, counts[t, k])

    def close(self) -> None:
        """It holds nothing."""
