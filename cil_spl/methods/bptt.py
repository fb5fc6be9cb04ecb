"""Back-propagation through time with surrogate gradients.

Paper: E. O. Neftci, H. Mostafa, F. Zenke, "Surrogate Gradient Learning in Spiking Neural Networks", IEEE Signal
Processing Magazine 36(6), 2019; the multi-spike form and its surrogate are those of sinabs (P. Weidel, S. Sheik,
arXiv:2111.01456).

Events are summed into T frames, the network is unrolled over them, and psi stands in for the derivative of a spike:

    u_l[t] = alpha v_l[t-1] + W_l s_{l-1}[t]
    s_l[t] = floor(u_l[t] / theta),   v_l[t] = max(u_l[t] - theta s_l[t], v_min)
    delta_l[t] = (W_{l+1}^T delta_{l+1}[t]) psi(u_l[t]) + alpha delta_l[t+1] (1 - theta psi(u_l[t]))
    dL/dW_l = sum_t delta_l[t] s_{l-1}[t]^T

    symbol   name here              meaning
    T        frames.bins            time steps
    u, v     current + v_mem        membrane before and after the spike test
    theta    spike_threshold        v_min: min_v_mem, the lower clip
    psi      surrogate_grad_fn      derivative used in the backward pass
    alpha    exp(-1 / tau_mem)      1 for integrate-and-fire

Differences from the paper: several spikes per step by default; the reset is not detached; output neurons hand their
gradient straight through (psi = 1, no clip), because an output that never fires would otherwise lose its class.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor

from cil_spl.data.batches import Batch
from cil_spl.models.forward import Fire, forward, straight_through
from cil_spl.models.net import Net
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires

REQUIRES = Requires(family="snn", observer=False)


def train(
    ctx: TrainingContext,
    *,
    lr: Annotated[float, Gt(0)] = 5e-3,
    loss: Literal["counts", "steps"] = "counts",
    count_scale: Annotated[float, Gt(0)] = 0.25,
    straight_through_output: bool = True,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train a spiking network by BPTT.

    Args:
        ctx: the run.
        lr: learning rate.
        loss: on the ``counts`` of the whole recording, or on those of each of its ``steps``, averaged.
        count_scale: factor on the counts before the softmax (an inverse temperature).
        straight_through_output: whether the gradient of the output neurons passes unchanged.
        init_rate: spread of a layer's input current, in thresholds, that fresh weights are scaled to; see
            :func:`cil_spl.models.init.scale_to_rate`.
    """
    net = ctx.build("snn")
    ctx.scale(net, init_rate)
    along = gradient(net, ctx, loss=loss, count_scale=count_scale, straight_through_output=straight_through_output)
    learn(ctx, net, along, lr=lr)
    return Trained(ctx.finish(net))


def gradient(
    net: Net, ctx: TrainingContext, *, loss: str, count_scale: float, straight_through_output: bool
) -> Gradient:
    """The gradient of a batch through all its time steps; options as in :func:`train`."""
    fire = output_neurons(net, straight_through_output)

    def of(batch: Batch) -> Iterator[Step]:
        out, _, _ = forward(net, batch.frames.to(ctx.device), fire=fire, ends=False)
        value = loss_of(ctx, out, batch, loss, count_scale)
        value.backward()
        yield Step(value.detach(), out.detach().sum(0))

    return of


def output_neurons(net: Net, unchanged: bool, *, through_time: bool = True) -> Fire:
    """What neurons do: the gradient of the output's passes unchanged where asked, and none through time."""
    return straight_through([net.plan.output] if unchanged else [], through_time)


def loss_of(ctx: TrainingContext, out: Tensor, batch: Batch, loss: str, count_scale: float) -> Tensor:
    """Loss on output counts. Shape: out (T, B, K)."""
    if loss == "counts":
        return ctx.loss(out.sum(0), batch, count_scale)
    return torch.stack([ctx.loss(o, batch, count_scale) for o in out]).mean()
