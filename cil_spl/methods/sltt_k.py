"""SLTT-K: spatial learning through time at K time steps drawn by chance.

Paper: Q. Meng et al., "Towards Memory- and Time-Efficient Backpropagation for Training Spiking Neural Networks",
ICCV 2023 (arXiv:2302.14311), Section 4.3.

As sltt.py; for every batch K of the T time steps are drawn, and only they have a backward pass:

    dL/dW_l = sum over t in a subset of K of delta_l[t] s_{l-1}[t]^T,   with the loss still divided by T

On average over subsets this is K/T of SLTT's gradient.

    symbol   name here      meaning
    K        k              time steps with a backward pass
    T        frames.bins    time steps

Differences from the paper: those of sltt.py. The subsets come from a generator of their own, seeded by ``seed`` and
kept in the checkpoints, so that a resumed run draws what it would have drawn.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from cil_spl.base.errors import RequestError
from cil_spl.methods import sltt
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.learn import learn
from cil_spl.training.options import Requires


def check(cfg: Any) -> list[str]:
    """Refuse more time steps with a backward pass than there are.

    Raises:
        RequestError: names both keys.
    """
    if cfg.method.k > cfg.frames.bins:
        raise RequestError(
            f"method.k={cfg.method.k}: there are only frames.bins={cfg.frames.bins} time steps; use at most so many"
        )
    return []


REQUIRES = Requires(family="snn", observer="optional", check=check)


def train(
    ctx: TrainingContext,
    *,
    k: Annotated[int, Ge(1)] = 2,
    lr: Annotated[float, Gt(0)] = 5e-3,
    count_scale: Annotated[float, Gt(0)] = 1.0,
    straight_through_output: bool = True,
    at_once: Annotated[int, Ge(1)] = 4,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train a spiking network by SLTT-K.

    Args:
        ctx: the run; its ``observer``, where there is one, is a chip in the loop.
        k: time steps of each batch that have a backward pass.
        lr: learning rate.
        count_scale: factor on a step's counts before the softmax (an inverse temperature).
        straight_through_output: whether the gradient of the output neurons passes unchanged.
        at_once: see :func:`cil_spl.methods.sltt.train`.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
    """
    net = ctx.build("snn")
    ctx.scale(net, init_rate)
    subsets = Subsets(k, ctx.seed)
    along = sltt.gradient(
        net,
        ctx,
        count_scale=count_scale,
        straight_through_output=straight_through_output,
        at_once=at_once,
        steps=subsets,
    )
    learn(ctx, net, along, lr=lr, keep={"subsets": subsets})
    return Trained(ctx.finish(net))


class Subsets:
    """Draws ``k`` of so many time steps, every subset with the same probability; alike on every rank."""

    def __init__(self, k: int, seed: int) -> None:
        self.k, self.generator = k, torch.Generator().manual_seed(seed)

    def __call__(self, steps: int) -> set[int]:
        return set(torch.randperm(steps, generator=self.generator)[: self.k].tolist())

    def state_dict(self) -> dict[str, Tensor]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generator.set_state(state["generator"])
