"""The synchronous CNN as an inference accelerator would run it: float as in the CIL-SPL paper, and 8 bit."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.chip.rounding import CHIP, Precision
from cil_spl.data.batches import Batch, Batches
from cil_spl.models import answers
from cil_spl.models.fold import fold
from cil_spl.models.net import Net, walk
from cil_spl.models.plan import Plan
from cil_spl.targets.target import Asked, TargetNetwork, refuse_loop
from cil_spl.tasks.evaluation import Answer


class Accelerator:
    """A CNN accelerator: every multiply-accumulate is done, zeros included.

    Args:
        precision: what counts as deployed, ``float32`` or ``int8``; the other is reported beside it.
    """

    family: Literal["snn", "cnn"] = "cnn"
    takes = ("events", "values")
    as_trained = False

    def __init__(self, *, name: str = "accelerator", precision: Literal["float32", "int8"] = "float32") -> None:
        self.name, self.precision = name, precision
        self.backend: str = precision

    def check(self, plan: Plan, requires: Asked) -> list[str]:
        """An accelerator holds any plan.

        Raises:
            RequestError: a network that spikes, or a chip in the loop.
        """
        if requires.family != self.family or requires.spikes:
            raise RequestError(
                f"target={self.name}: it runs a CNN, but method={requires.method} trains spikes; use method=conversion"
            )
        refuse_loop(self.name, requires)
        return []

    def quantize(self, net: Net, precision: Precision = CHIP, calibration: Batches | None = None) -> TargetNetwork:
        """With 8-bit weights and activations, whose ranges are taken on the calibration recordings."""
        assert calibration is not None, "8-bit activations need recordings to choose their ranges by"
        net = net.cpu()
        return TargetNetwork(net, rounded=int8_twin(net, calibration))

    def answer(self, network: TargetNetwork) -> Answer:
        """In the precision that counts as deployed."""
        held = network.net if self.precision == "float32" else network.rounded
        assert held is not None
        return answers.cnn_answer(held)

    def figures(self, network: TargetNetwork) -> dict[str, float]:
        """Bytes for weights and for the largest pair of maps that must be held at once."""
        parameters = sum(p.numel() for p in network.net.parameters())
        sizes = [int(torch.tensor(shape).prod()) for shape in network.plan.shapes().values()]
        maps = max(a + b for a, b in pairwise(sizes))
        width = 4 if self.precision == "float32" else 1
        return {
            "parameters": float(parameters),
            "weight_bytes": float(parameters * width),
            "map_bytes": float(maps * width),
        }

    def judge(self, metrics: Mapping[str, float]) -> list[str]:
        """Nothing that it could be warned of."""
        return []

    def output_events(self, network: TargetNetwork, batch: Batch) -> None:
        """A CNN has no events."""

    def close(self) -> None:
        """It holds nothing."""


class _Rounding(nn.Module):
    """Round to 8 bits with a fixed step."""

    def __init__(self, step: float, signed: bool) -> None:
        super().__init__()
        self.step, self.low, self.high = step, -128.0 if signed else 0.0, 127.0 if signed else 255.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(torch.round(x / self.step), self.low, self.high) * self.step


class _Rounded(nn.Module):
    """A layer with rounded weights on rounded values."""

    def __init__(self, rounding: _Rounding, layer: nn.Module) -> None:
        super().__init__()
        self.rounding, self.layer = rounding, layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.rounding(x))


@torch.no_grad()
def int8_twin(net: Net, calibration: Batches, n_batches: int = 4, percentile: float = 0.9999) -> Net:
    """A copy with 8-bit weights (symmetric, one step per layer) and 8-bit activations (step from calibration data)."""
    net = fold(net)
    modules: dict[str, nn.Module] = dict(net.named_children())
    samples = [batch.frames.sum(dim=0) for i, batch in enumerate(calibration.epoch(0)) if i < n_batches]

    def layer(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            (x,) = inputs
            new = copy.deepcopy(module)
            step = module.weight.abs().max() / 127
            new.weight.copy_(torch.round(module.weight / step) * step)
            modules[name] = _Rounded(_Rounding(_step(x, percentile), signed=bool((x < 0).any())), new)
        return module(*inputs)

    walk(net, torch.cat(samples), layer)  # T B C H W -> B C H W
    return Net(net.plan, modules)


def _step(x: Tensor, percentile: float) -> float:
    values = x.abs().flatten()
    top = float(values.kthvalue(max(1, round(percentile * values.numel()))).values) or float(values.max()) or 1.0
    return top / (127 if bool((x < 0).any()) else 255)
