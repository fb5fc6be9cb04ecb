"""Chip-in-loop proxy learning with conversion: the twin is a CNN on accumulated frames.

Paper: "Chip-In-Loop SNN Proxy Learning: a new method for efficient training of spiking neural networks", Frontiers in
Neuroscience 17:1323121, 2024 (doi 10.3389/fnins.2023.1323121), Section 3.3.1.

CNN and chip have the same weights, the chip's rounded. Each step the recordings go through the chip as events and
through the CNN as one frame; the chip's class counts replace the CNN's output values, and the gradient flows through
the CNN:

    y = CNN(x; W),   c = chip(events; Q(W))
    y <- c,   L = l(softmax(k y), label)
    W <- W - lr dL/dW, the derivative of l taken at c;   chip <- Q(W)

    symbol   name here       meaning
    x        frame           the recording's events, summed over time
    y        out             output of the CNN, in events of an output neuron: a threshold's worth of input is one
    c        counts          output events of each class
    k        count_scale     an inverse temperature
    Q        observer.load   the chip's rounding

A rectifier is what an integrate-and-fire neuron does to a whole recording, so the weights serve both as they are.

Differences from the paper: the CNN computes in units of events, so no scaling stands between it and the chip; the
counts of every layer may be replaced, not the output's alone (``observer.layers``); the chip enters after a part of the
epochs in which the CNN trains alone (``plain``); the CNN's output is not rectified in the backward pass, as in
conversion.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated

from annotated_types import Ge, Gt, Le
from torch import Tensor

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batch
from cil_spl.methods import conversion, tandem
from cil_spl.models.build import build
from cil_spl.models.fold import fold
from cil_spl.models.net import Net, copy_weights
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.gradient_cosine import Meter
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires

REQUIRES = Requires(family="cnn", observer=True, converts=True)


def train(
    ctx: TrainingContext,
    *,
    lr: Annotated[float, Gt(0)] = 5e-3,
    count_scale: Annotated[float, Gt(0)] = 0.25,
    init_rate: Annotated[float, Gt(0)] = 1.0,
    plain: Annotated[float, Ge(0), Le(1)] = 0.5,
    meter: Annotated[int, Ge(0), Le(1024)] = 0,
) -> Trained:
    """Train a CNN whose output is a chip's.

    Args:
        ctx: the run; its ``observer`` is the chip.
        lr: learning rate.
        count_scale: factor on the counts before the softmax.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
        plain: part of all steps, the first ones, that run without the chip.
        meter: random directions along which the gradient is measured each epoch
            (:mod:`cil_spl.training.gradient_cosine`); 0 for none.

    Raises:
        RequestError: there is no chip in the loop.
    """
    if ctx.observer is None:
        raise RequestError("observer=none: method=cil_conversion needs a chip in the loop; use observer=chip")
    net = ctx.build("cnn")
    spiking = build(fold(net).plan, family="snn", neuron=ctx.neuron).to(ctx.device)
    ctx.scale(net, init_rate, bins=1)
    chip_loss = loss_on_chip(net, spiking, ctx, count_scale=count_scale)
    gauge = None
    if meter:
        batch = next(ctx.batches(ctx.experiences[0].train, train=True, bins=1).epoch(0))
        gauge = Meter(net, lambda batch: chip_loss(batch)[0], batch, meter, ctx.seed)
    learn(
        ctx,
        net,
        [
            (plain, conversion.gradient(net, ctx, count_scale=count_scale)),
            (1.0, gradient(net, spiking, ctx, count_scale=count_scale)),
        ],
        lr=lr,
        bins=1,
        score=lambda: ctx.score(share(net, spiking)) | (gauge() if gauge else {}),
    )
    return Trained(share(net, spiking), ann=ctx.finish(net))


def gradient(net: Net, spiking: Net, ctx: TrainingContext, *, count_scale: float) -> Gradient:
    """The CNN's gradient of a batch, at the chip's counts."""
    chip_loss = loss_on_chip(net, spiking, ctx, count_scale=count_scale)

    def of(batch: Batch) -> Iterator[Step]:
        value, counts = chip_loss(batch)
        value.backward()
        yield Step(value.detach(), counts)

    return of


def loss_on_chip(
    net: Net, spiking: Net, ctx: TrainingContext, *, count_scale: float
) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Loss of a batch on the chip, with the CNN's gradient, and the chip's counts (B, K)."""
    assert ctx.observer is not None
    observer = ctx.observer

    def of(batch: Batch) -> tuple[Tensor, Tensor]:
        observer.load(share(net, spiking))
        observer.open(batch)
        counts = {name: seen.counts[0] for name, seen in observer.window(0).items()}  # 1 B ... -> B ...
        out = tandem.coupled(net, batch.frames[0].to(ctx.device), counts)  # 1 B C H W -> B C H W
        return ctx.loss(out, batch, count_scale), out.detach()

    return of


def share(cnn: Net, spiking: Net) -> Net:
    """The spiking network with the CNN's present weights."""
    return copy_weights(fold(cnn), spiking)
