"""Chip-in-loop proxy learning with back-propagation through time.

Paper: "Chip-In-Loop SNN Proxy Learning: a new method for efficient training of spiking neural networks", Frontiers in
Neuroscience 17:1323121, 2024 (doi 10.3389/fnins.2023.1323121), Section 3.3.2.

The recording is cut into T windows. Twin and chip have the same weights, the chip's rounded, and both run it; what the
chip did replaces what the twin did, in the loss and in the backward pass, whose graph stays the twin's:

    twin:  V[t], y[t] = f(V[t-1], x[t]; W)
    chip:  V_chip[t], y_chip[t] = f_chip(V_chip[t-1], events of window t; Q(W))
    y[t] <- y_chip[t],   V[t] <- V_chip[t]
    L = l(sum_t y_chip[t], label)   or   mean_t l(y_chip[t], label)
    W <- W - lr dL/dW by BPTT through f, psi evaluated at V_chip[t] + theta y_chip[t];   chip <- Q(W)

    symbol    name here           meaning
    T         frames.bins         windows
    x, y, V   frames, out, v_mem  input counts, output counts, membrane states
    f         forward             the time-stepped network
    f_chip    observer            the chip: events one by one, states kept from window to window
    Q         observer.load       the chip's rounding
    psi       surrogate_grad_fn   derivative of the spikes, as in bptt.py

Differences from the paper: what is replaced is an option (``observer.layers``, ``observer.v_mem``); the chip enters
after a part of the epochs of plain BPTT (``plain``); as in bptt.py, the output neurons hand their gradient straight
through.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le
from torch import Tensor

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batch
from cil_spl.methods import bptt
from cil_spl.models.forward import forward
from cil_spl.models.net import Net
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.gradient_cosine import Meter
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires

REQUIRES = Requires(family="snn", observer=True)


def train(
    ctx: TrainingContext,
    *,
    lr: Annotated[float, Gt(0)] = 5e-3,
    loss: Literal["counts", "steps"] = "counts",
    count_scale: Annotated[float, Gt(0)] = 0.25,
    straight_through_output: bool = True,
    init_rate: Annotated[float, Gt(0)] = 1.0,
    plain: Annotated[float, Ge(0), Le(1)] = 0.5,
    meter: Annotated[int, Ge(0), Le(1024)] = 0,
) -> Trained:
    """Train a spiking network with a chip in the loop.

    Args:
        ctx: the run; its ``observer`` is the chip.
        lr: learning rate.
        loss: on the ``counts`` of the whole recording, or on those of each of its ``steps``, averaged.
        count_scale: factor on the counts before the softmax (an inverse temperature).
        straight_through_output: whether the gradient of the output neurons passes unchanged.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
        plain: part of all steps, the first ones, that run without the chip.
        meter: random directions along which the gradient is measured each epoch
            (:mod:`cil_spl.training.gradient_cosine`); 0 for none.

    Raises:
        RequestError: there is no chip in the loop.
    """
    if ctx.observer is None:
        raise RequestError("observer=none: method=cil_bptt needs a chip in the loop; use observer=chip")
    net = ctx.build("snn")
    ctx.scale(net, init_rate)
    options: dict[str, Any] = {
        "loss": loss,
        "count_scale": count_scale,
        "straight_through_output": straight_through_output,
    }
    chip_loss = loss_on_chip(net, ctx, **options)
    gauge = None
    if meter:
        batch = next(ctx.batches(ctx.experiences[0].train, train=True).epoch(0))
        gauge = Meter(net, lambda batch: chip_loss(batch)[0], batch, meter, ctx.seed)
    twin, chip = bptt.gradient(net, ctx, **options), gradient(net, ctx, **options)
    learn(
        ctx,
        net,
        [(plain, twin), (1.0, chip)],
        lr=lr,
        score=lambda: ctx.score(net) | (gauge() if gauge else {}),
    )
    return Trained(ctx.finish(net))


def gradient(net: Net, ctx: TrainingContext, **options: Any) -> Gradient:
    """The twin's gradient of a batch, at what the chip did; options as in :func:`loss_on_chip`."""
    chip_loss = loss_on_chip(net, ctx, **options)

    def of(batch: Batch) -> Iterator[Step]:
        value, counts = chip_loss(batch)
        value.backward()
        yield Step(value.detach(), counts.sum(0))

    return of


def loss_on_chip(
    net: Net, ctx: TrainingContext, *, loss: str, count_scale: float, straight_through_output: bool
) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Loss of a batch on the chip, with the twin's gradient, and the chip's counts (T, B, K)."""
    assert ctx.observer is not None
    observer, fire = ctx.observer, bptt.output_neurons(net, straight_through_output)

    def of(batch: Batch) -> tuple[Tensor, Tensor]:
        observer.load(net)
        observer.open(batch)
        frames = batch.frames.to(ctx.device)
        out, _, _ = forward(net, frames, observed=observer.windows(), fire=fire, ends=False)
        return bptt.loss_of(ctx, out, batch, loss, count_scale), out.detach()

    return of
