"""A chip in the loop: it does the forward pass of a batch, and a method learns what it saw.

To a method this is only where values come from (``TrainingContext.observer``); it knows nothing of chips. The chip is
given the network's present weights, rounded by its rule, and runs the events from which the batch's frames were made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from cil_spl.base.annotations import Keys
from cil_spl.chip.die import Die, die_of
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.rounding import CHIP, Precision
from cil_spl.chip.simulator import ChipAnswer
from cil_spl.data.batches import Batch
from cil_spl.models.net import Net
from cil_spl.models.neurons import Observation
from cil_spl.models.plan import Plan
from cil_spl.models.stages import stages


class Chip(Protocol):
    """What a target must offer to be in the loop."""

    def quantize(self, net: Net, precision: Precision) -> Any:
        """The network as the target holds it, its chip network as ``chip``."""

    def send(self, chip: ChipNetwork, batch: Batch, *, record: tuple[str, ...], die: Any) -> ChipAnswer: ...


class ChipObserver:
    """Sends batches through a chip.

    Args:
        target: the chip.
        plan: of the networks that it will be given.
        precision: of the chip.
        layers: report the ``output`` layer only, or ``all`` spiking layers.
        v_mem: whether to report membrane states too; a board sends one event a neuron for them.
        die: deviations of the chip in the loop, apart from those of the chip that is evaluated.
    """

    def __init__(
        self,
        target: Chip,
        plan: Plan,
        precision: Precision = CHIP,
        *,
        layers: Literal["output", "all"] = "all",
        v_mem: bool = False,
        die: Annotated[Mapping[str, Any] | None, Keys(Die)] = None,
    ) -> None:
        self.target, self.precision, self.stages = target, precision, stages(plan)
        self.layers, self.v_mem = layers, v_mem
        self.die = die_of(die, "observer.die")
        if self.die:
            self.die.check_layers([stage.weight.name for stage in self.stages])
        self.chip: ChipNetwork | None = None
        self.unit: dict[str, float | Tensor] = {}
        self.device = torch.device("cpu")
        self.seen: dict[str, Observation] = {}

    def load(self, net: Net) -> None:
        """Round the network's present weights and put them on the chip."""
        self.chip = chip = self.target.quantize(net, self.precision).chip
        self.device = next(net.parameters()).device
        # The chip's threshold is a rounded one: in units of it, a state is what the float network calls v_mem.
        # With a threshold of each channel, the chip's one stands for each of them.
        self.unit = {}
        for stage, layer in zip(self.stages, chip.layers, strict=True):
            theta: Tensor = cast(Any, net.get_submodule(stage.neuron)).spike_threshold.detach()
            self.unit[stage.neuron] = (float(theta) if theta.numel() == 1 else theta) / layer.threshold

    def open(self, batch: Batch) -> None:
        """Run a batch, each recording from zeroed states; windows do not change what the chip does."""
        assert self.chip is not None, "load a network before a batch"
        all_layers = self.layers == "all"
        record = (("counts",) if all_layers else ()) + (("v_mem",) if self.v_mem else ())
        answer = self.target.send(self.chip, batch, record=record, die=self.die)
        last = len(self.stages) - 1
        self.seen = {}
        for k, stage in enumerate(self.stages):
            if k < last and not all_layers:
                continue
            flat = stage.weight.kind == "linear"
            readout = self.chip.readout if k == last else None
            if all_layers:
                assert answer.layer_counts is not None
                counts = _steps_first(answer.layer_counts[k], flat, readout, self.device)
            else:
                by_class = torch.from_numpy(answer.counts.astype(np.float32))
                counts = by_class.transpose(0, 1).to(self.device)  # B T K -> T B K
            v_mem = None
            if self.v_mem:
                assert answer.layer_v_mem is not None
                v_mem = _steps_first(answer.layer_v_mem[k], flat, readout, self.device) * self.unit[stage.neuron]
            self.seen[stage.neuron] = Observation(counts, v_mem)

    def windows(self) -> dict[str, Observation]:
        """What it saw in all windows, by spiking layer. Shapes (T, B, ...)."""
        return self.seen

    def window(self, t: int) -> dict[str, Observation]:
        """What it saw in window ``t``. Shapes (1, B, ...)."""
        return {
            name: Observation(seen.counts[t : t + 1], None if seen.v_mem is None else seen.v_mem[t : t + 1])
            for name, seen in self.seen.items()
        }


def _steps_first(values: np.ndarray, flat: bool, readout: Any, device: torch.device) -> Tensor:
    """B T f y x as float32 T B f y x, features innermost in memory, as training wants them and the simulator has them:
    one pass, which copies and converts."""
    x = torch.from_numpy(values).permute(1, 0, 3, 4, 2)  # B T f y x -> T B y x f
    if readout is not None:
        x = x[..., list(readout)]
    x = torch.empty(x.shape, dtype=torch.float32).copy_(x).permute(0, 1, 4, 2, 3)  # T B y x f -> T B f y x
    return (x.flatten(2) if flat else x).to(device)
