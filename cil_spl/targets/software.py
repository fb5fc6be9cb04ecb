"""The time-stepped network as its own target: what a simulation without a chip reports."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.quantize import integer_twin, quantize
from cil_spl.data.batches import Batch
from cil_spl.models import answers
from cil_spl.models.plan import Plan
from cil_spl.tasks import evaluation as ev


class Software:
    """The quantised network in time steps.

    Attributes:
        backend: says in output and record what ran.
        runs: ``spikes``, or ``cnn`` where only a CNN can be deployed.
        takes: kinds of data that it can run on: ``events`` of recordings, ``values`` of samples.
    """

    runs = "spikes"
    takes = ("events", "values")
    backend = "stepped"

    def __init__(self, *, name: str = "software") -> None:
        self.name = name

    def place(self, plan: Plan) -> list[str]:
        """Nothing to place; warnings for the user."""
        return []

    def quantize(self, net: nn.Sequential, plan: Plan) -> tuple[ChipNetwork, list[str]]:
        """By the chip's rule, without a core for each layer."""
        return quantize(net, plan, leaky=True)

    def load(self, chip: ChipNetwork, plan: Plan, like: nn.Sequential) -> None:
        """Take a network."""
        self.answer: ev.Answer = answers.stepped_answer(integer_twin(chip, plan, like), plan, torch.device("cpu"))

    def figures(self) -> dict[str, float]:
        """A simulation takes no memory of a chip."""
        return {}

    def judge(self, metrics: Mapping[str, float]) -> list[str]:
        """A simulation has no rate to exceed."""
        return []

    def output_events(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Times (microseconds, the end of the bin) and classes of one recording's output events."""
        _, _, edges_us = batch.recorded()
        counts = self.answer(batch).counts[0].astype(int)  # T K
        t, k = np.nonzero(counts)
        return np.repeat(edges_us[0, t + 1], counts[t, k]), np.repeat(k, counts[t, k])
