"""Spatial learning through time: BPTT without its temporal edges.

Paper: Q. Meng, M. Xiao, S. Yan, Y. Wang, Z. Lin, Z.-Q. Luo, "Towards Memory- and Time-Efficient Backpropagation for
Training Spiking Neural Networks", ICCV 2023 (arXiv:2302.14311).

The forward pass is BPTT's; the membrane that is carried into a step counts as a constant in the backward pass. So a
step can have its backward pass at once, and memory does not grow with the number of steps:

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

Differences from the paper: ``at_once`` time steps are computed together, which is the same and faster (not so with
batch normalisation or feedback: there it is one); the outputs are spiking neurons, as a chip has them, not a linear
read-out, and hand their gradient straight through as in bptt.py; no squared error beside the cross entropy; no batch
normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Annotated

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from cil_spl.data.batches import Batch
from cil_spl.methods.bptt import output_neurons
from cil_spl.models.forward import Fire, Weigh, at, forward, plain
from cil_spl.models.kinds import POOLS
from cil_spl.models.net import Net
from cil_spl.models.neurons import Observation
from cil_spl.models.plan import Plan
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
    at_once: Annotated[int, Ge(1)] = 4,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train a spiking network by SLTT.

    Args:
        ctx: the run; its ``observer``, where there is one, is a chip in the loop.
        lr: learning rate.
        count_scale: factor on a step's counts before the softmax (an inverse temperature).
        straight_through_output: whether the gradient of the output neurons passes unchanged.
        at_once: time steps that are computed together: with fewer, less memory and more time.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
    """
    net = ctx.build("snn")
    ctx.scale(net, init_rate)
    along = gradient(
        net, ctx, count_scale=count_scale, straight_through_output=straight_through_output, at_once=at_once
    )
    learn(ctx, net, along, lr=lr)
    return Trained(ctx.finish(net))


def gradient(
    net: Net,
    ctx: TrainingContext,
    *,
    count_scale: float,
    straight_through_output: bool,
    at_once: int = 1,
    steps: Callable[[int], Collection[int]] = range,
) -> Gradient:
    """The sum of the gradients of single time steps; options as in :func:`train`.

    Args:
        steps: of so many time steps, those whose gradient is taken; the others are run without one.
    """
    fire = output_neurons(net, straight_through_output, through_time=False)

    def of(batch: Batch) -> Iterator[Step]:
        chosen = steps(len(batch.frames))
        seen = at_once_on_chip(ctx, net, batch)
        yield total(part_by_part(net, ctx, batch, seen, chosen, count_scale=count_scale, at_once=at_once, fire=fire))

    return of


Seen = Callable[[int, int], Mapping[str, Observation]]


def at_once_on_chip(ctx: TrainingContext, net: Net, batch: Batch) -> Seen:
    """Let the chip, where one is in the loop, run a batch; what it saw from one time step up to another."""
    if ctx.observer is None:
        return lambda first, end: {}
    ctx.observer.load(net)
    ctx.observer.open(batch)
    windows = ctx.observer.windows()
    return lambda first, end: {name: at(seen, first, end) for name, seen in windows.items()}


def part_by_part(
    net: Net,
    ctx: TrainingContext,
    batch: Batch,
    seen: Seen,
    chosen: Collection[int],
    *,
    count_scale: float,
    at_once: int,
    fire: Fire,
    weigh: Weigh = plain,
) -> Iterator[Step]:
    """Go through the time steps, in parts that each have their backward pass at once.

    Args:
        seen: what a chip saw of the time steps from one up to another.
        chosen: the time steps whose gradient is taken.
        count_scale, at_once: see :func:`train`.
        fire, weigh: see :func:`cil_spl.models.forward.forward`.
    """
    frames = batch.frames.to(ctx.device)
    n = len(frames)
    state: dict[str, Tensor] = {}
    for first, end in parts_of(n, at_once if parts_are_steps(net.plan) else 1, chosen):
        learns = first in chosen
        with torch.set_grad_enabled(learns):
            out, state, _ = forward(net, frames[first:end], state, seen(first, end), fire=fire, weigh=weigh)
            loss = torch.stack([ctx.loss(o, batch, count_scale) for o in out]).sum() / n
        if learns:
            loss.backward()
        state = {name: value.detach() for name, value in state.items()}
        yield Step(loss.detach(), out.detach().sum(0))


def total(steps: Iterable[Step]) -> Step:
    """Several steps as one."""
    taken = list(steps)
    return Step(torch.stack([s.loss for s in taken]).sum(), torch.stack([s.outputs for s in taken]).sum(0))


def parts_of(steps: int, at_once: int, chosen: Collection[int]) -> Iterator[tuple[int, int]]:
    """Time steps from ``first`` up to ``end``, at most so many at once, all of them chosen or none."""
    first = 0
    while first < steps:
        end = first + 1
        while end < min(first + at_once, steps) and (end in chosen) == (first in chosen):
            end += 1
        yield first, end
        first = end


def parts_are_steps(plan: Plan) -> bool:
    """Whether steps that are computed together are what each of them is alone: not so with a batch's statistics."""
    apart = {"conv", "linear", "neuron", "bias", "add", "flatten", *POOLS}
    return all(layer.kind in apart for layer in plan.layers)
