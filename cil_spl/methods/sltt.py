"""Spatial learning through time: BPTT without its temporal edges.

Paper: Q. Meng, M. Xiao, S. Yan, Y. Wang, Z. Lin, Z.-Q. Luo, "Towards Memory- and Time-Efficient Backpropagation for
Training Spiking Neural Networks", ICCV 2023 (arXiv:2302.14311).

The forward pass is BPTT's; the membrane that is carried into a step counts as a constant in the backward pass. So each
step has a backward pass of its own, at once, and memory does not grow with the number of steps:

    u_l[t] = alpha v_l[t-1] + W_l s_{l-1}[t],   v_l[t-1] a constant
    L = 1/T sum_t l(o[t], label)
    delta_l[t] = (W_{l+1}^T delta_{l+1}[t]) psi(u_l[t]),   dL/dW_l = sum_t delta_l[t] s_{l-1}[t]^T

    symbol   name here           meaning
    T        frames.bins         time steps
    u, v     current + v_mem     membrane before and after the spike test
    o        out                 output events of a step, times count_scale
    psi      surrogate_grad_fn   derivative used in the backward pass (the paper's: triangle)
    alpha    exp(-1 / tau_mem)   1 for integrate-and-fire

With a chip in the loop (``observer=chip``) the chip's counts, and its states where ``observer.v_mem`` asks for them,
take the place of the network's own, step by step.

Differences from the paper: the outputs are spiking neurons, as a chip has them, not a linear read-out, and hand their
gradient straight through as in bptt.py; no squared error beside the cross entropy; no batch normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from cil_spl.data.batches import Batch
from cil_spl.methods.bptt import output_neurons
from cil_spl.models.forward import forward
from cil_spl.models.net import Net
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires

REQUIRES = Requires(family="snn", observer="optional")


def train(
    ctx: TrainingContext,
    *,
    lr: Annotated[float, Gt(0)] = 5e-3,
    count_scale: Annotated[float, Gt(0)] = 1.0,
    straight_through_output: bool = True,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train a spiking network by SLTT.

    Args:
        ctx: the run; its ``observer``, where there is one, is a chip in the loop.
        lr: learning rate.
        count_scale: factor on a step's counts before the softmax (an inverse temperature).
        straight_through_output: whether the gradient of the output neurons passes unchanged.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
    """
    net = ctx.build("snn")
    ctx.scale(net, init_rate)
    along = gradient(net, ctx, count_scale=count_scale, straight_through_output=straight_through_output)
    learn(ctx, net, along, lr=lr)
    return Trained(ctx.finish(net))


def gradient(
    net: Net,
    ctx: TrainingContext,
    *,
    count_scale: float,
    straight_through_output: bool,
    steps: Callable[[int], Collection[int]] = range,
) -> Gradient:
    """The sum of the gradients of single time steps; options as in :func:`train`.

    Args:
        steps: of so many time steps, those whose gradient is taken; the others are run without one.
    """
    fire = output_neurons(net, straight_through_output)
    chip = ctx.observer

    def of(batch: Batch) -> Iterator[Step]:
        frames = batch.frames.to(ctx.device)
        if chip is not None:
            chip.load(net)
            chip.open(batch)
        chosen = steps(len(frames))
        state: dict[str, Tensor] = {}
        losses, counts = [], []
        for t, frame in enumerate(frames):
            with torch.set_grad_enabled(t in chosen):
                seen = chip.window(t) if chip is not None else None
                out, state, _ = forward(net, frame[None], state, seen, fire=fire)
                loss = ctx.loss(out[0], batch, count_scale) / len(frames)
            if t in chosen:
                loss.backward()
            state = {name: v_mem.detach() for name, v_mem in state.items()}
            losses.append(loss.detach())
            counts.append(out[0].detach())
        yield Step(torch.stack(losses).sum(), torch.stack(counts).sum(0))

    return of
