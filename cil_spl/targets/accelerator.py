"""The synchronous CNN as an inference accelerator would run it: float as in the CIL-SPL paper, and 8 bit."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from cil_spl.data.batches import Batches
from cil_spl.models import answers
from cil_spl.models.plan import Plan
from cil_spl.tasks import evaluation as ev


class Accelerator:
    """A CNN accelerator: every multiply-accumulate is done, zeros included.

    Args:
        precision: what counts as deployed, ``float32`` or ``int8``; the other is reported beside it.
    """

    runs = "cnn"
    takes = ("events", "values")

    def __init__(self, *, name: str = "accelerator", precision: Literal["float32", "int8"] = "float32") -> None:
        self.name, self.precision = name, precision
        self.backend = precision

    def place(self, plan: Plan) -> list[str]:
        """An accelerator holds any plan."""
        return []

    def load_cnn(self, net: nn.Sequential, plan: Plan, calibration: Batches) -> tuple[ev.Answer, ev.Answer]:
        """Answers in float32 and in int8."""
        return answers.cnn_answer(net, plan), answers.cnn_answer(int8_twin(net, calibration), plan)

    def storage(self, plan: Plan, net: nn.Sequential) -> dict[str, float]:
        """Bytes for weights and for the largest pair of maps that must be held at once."""
        parameters = sum(p.numel() for p in net.parameters())
        sizes = [int(torch.tensor(shape).prod()) for shape in plan.shapes().values()]
        maps = max(a + b for a, b in pairwise(sizes))
        width = 4 if self.precision == "float32" else 1
        return {
            "parameters": float(parameters),
            "weight_bytes": float(parameters * width),
            "map_bytes": float(maps * width),
        }


class _Rounding(nn.Module):
    """Round to 8 bits with a fixed step."""

    def __init__(self, step: float, signed: bool) -> None:
        super().__init__()
        self.step, self.low, self.high = step, -128.0 if signed else 0.0, 127.0 if signed else 255.0

    def forward(self, x: Tensor) -> Tensor:
        return torch.clamp(torch.round(x / self.step), self.low, self.high) * self.step


@torch.no_grad()
def int8_twin(
    net: nn.Sequential, calibration: Batches, n_batches: int = 4, percentile: float = 0.9999
) -> nn.Sequential:
    """A copy with 8-bit weights (symmetric, one step per layer) and 8-bit activations (step from calibration data)."""
    twin = nn.Sequential()
    samples = [batch.frames.sum(dim=0) for i, batch in enumerate(calibration.epoch(0)) if i < n_batches]
    x = torch.cat(samples)  # T B C H W -> B C H W
    for name, module in net.named_children():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            twin.add_module(f"{name}_in", _Rounding(_step(x, percentile), signed=bool((x < 0).any())))
            new = _copy(module)
            step = module.weight.abs().max() / 127
            new.weight.copy_(torch.round(module.weight / step) * step)
            twin.add_module(name, new)
        else:
            twin.add_module(name, module)
        x = module(x)
    return twin


def _step(x: Tensor, percentile: float) -> float:
    values = x.abs().flatten()
    top = float(values.kthvalue(max(1, round(percentile * values.numel()))).values) or float(values.max()) or 1.0
    return top / (127 if bool((x < 0).any()) else 255)


def _copy(module: nn.Conv2d | nn.Linear) -> nn.Conv2d | nn.Linear:
    if isinstance(module, nn.Conv2d):
        kernel, stride, padding = cast(Any, (module.kernel_size, module.stride, module.padding))
        return nn.Conv2d(module.in_channels, module.out_channels, kernel, stride, padding, bias=False)
    return nn.Linear(module.in_features, module.out_features, bias=False)
