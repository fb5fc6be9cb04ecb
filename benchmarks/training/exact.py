"""Part ``exact``: for equal input currents, our neurons against sinabs' own layer: spikes, and gradients."""

from __future__ import annotations

from typing import Any

import sinabs.activation as sina
import sinabs.layers as sl
import torch
from torch import Tensor
from turns import Options

from cil_spl.models import neurons

SHAPE = (20, 8, 16, 12, 12)  # T B C H W


def part(options: Options) -> list[tuple[str, list[dict[str, Any]]]]:
    """A row for each kind of number: how many spikes differ, and the largest relative difference of gradients."""
    return [("neurons against sinabs' layer", [row(dtype) for dtype in (torch.float32, torch.float64)])]


def row(dtype: torch.dtype) -> dict[str, Any]:
    """Compare on one seeded current."""
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    grad = torch.randn(SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    mine, by_mine = of(current, grad, ours)
    theirs, by_theirs = of(current, grad, sinabs)
    off = float((by_mine - by_theirs).abs().max() / by_theirs.abs().max())
    return {
        "numbers": str(dtype).removeprefix("torch."),
        "spikes": f"{int(theirs.sum()):,}",
        "neurons and steps that differ": int((mine != theirs).sum()),
        "gradients' largest relative difference": f"{off:.2g}",
    }


def of(current: Tensor, grad: Tensor, run: Any) -> tuple[Tensor, Tensor]:
    """Spikes, and the gradient of the current."""
    x = current.clone().requires_grad_()
    spikes = run(x)
    spikes.backward(grad)
    assert x.grad is not None
    return spikes.detach(), x.grad


def ours(x: Tensor) -> Tensor:
    """Shape: (T, B, ...)."""
    return neurons.run("spike", neurons.make(), x)[0]


def sinabs(x: Tensor) -> Tensor:
    """The same options. Shape: (T, B, ...)."""
    layer = sl.IAF(
        spike_threshold=torch.tensor(1.0), min_v_mem=-8.0, spike_fn=sina.MultiSpike, reset_fn=sina.MembraneSubtract(),
        surrogate_grad_fn=sina.PeriodicExponential(),
    )  # fmt: skip
    return layer(x.transpose(0, 1)).transpose(0, 1)  # T B -> B T -> T B
