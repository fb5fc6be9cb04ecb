"""Tandem learning: spikes give the values, rectifiers on spike counts the gradient.

Paper: J. Wu, Y. Chua, M. Zhang, G. Li, H. Li, K. C. Tan, "A Tandem Learning Rule for Effective Training and Rapid
Inference of Deep Spiking Neural Networks", IEEE TNNLS 2021 (arXiv:1907.01167).

A spiking network and an ANN of the same layers share their weights. The spiking network runs in time steps, without a
graph, and gives the exact spike counts; each layer of the ANN takes the counts of the layer before it, and what it
would answer to them stands for the counts in the backward pass alone:

    spiking:  z_l[t] = W'_l s_{l-1}[t] + b'_l / N_s,   s_l = IF(z_l; theta),   c_l = sum_t s_l[t]
    ANN:      a_l = max(0, norm(W_l c_{l-1} + b_l))
    a_l <- c_l,   dL/da_l := dL/dc_l
    L = l(k V, label),   V = W_L c_{L-1} + b_L   (the free aggregate potential; or the counts of spiking output neurons)

    symbol   name here         meaning
    N_s      frames.bins       time steps
    c        spike_counts      spikes of each neuron over all steps
    W', b'   fold              weights and biases with the normalisation in them
    theta    spike_threshold   of the integrate-and-fire neurons; 1
    k        count_scale       an inverse temperature of the loss

Its neurons are the config's: the paper's are ``model.neuron.spike_fn=single model.neuron.min_v_mem=null``. An image is
a current at every step (``frames.encode=repeat``) or the whole of it at the first (``once``).

With a chip in the loop (``observer=chip``) the counts are the chip's: this is then cil_conversion.py with all layers
observed and the chip in it from the first step on.

Differences from the paper: none in the update. The authors' code leaves out the small constant of the normalisation
when it folds it, and has dropout before the read-out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor, nn

from cil_spl.data.batches import Batch
from cil_spl.models.carry import Scale, carry_over, spiking_twin
from cil_spl.models.fold import fold
from cil_spl.models.forward import forward
from cil_spl.models.net import Net, evaluating, spiking_layers, walk, weighted
from cil_spl.models.neurons import substitute
from cil_spl.models.plan import INPUT
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires

REQUIRES = Requires(family="cnn", observer="optional", converts=True, spikes=True)


def train(
    ctx: TrainingContext,
    *,
    lr: Annotated[float, Gt(0)] = 2e-3,
    count_scale: Annotated[float, Gt(0)] = 0.25,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train a spiking network and the ANN that carries its gradient, end to end.

    Args:
        ctx: the run; its ``observer``, where there is one, is a chip in the loop.
        lr: learning rate.
        count_scale: factor on the outputs before the softmax.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
    """
    net = ctx.build("cnn")
    spiking = spiking_twin(net, ctx.neuron).to(ctx.device)
    ctx.scale(net, init_rate, bins=1)
    learn(
        ctx,
        net,
        gradient(net, spiking, ctx, count_scale=count_scale),
        lr=lr,
        score=lambda: ctx.score(share(net, spiking, ctx.frames.bins)),
    )
    return Trained(share(net, spiking, ctx.frames.bins), ann=ctx.finish(net))


def gradient(net: Net, spiking: Net, ctx: TrainingContext, *, count_scale: float) -> Gradient:
    """The ANN's gradient of a batch, at the spiking network's counts."""

    def of(batch: Batch) -> Iterator[Step]:
        values = spike_counts(ctx, share(net, spiking, ctx.frames.bins), batch)
        out = coupled(net, batch.frames.sum(0).to(ctx.device), values)  # T B C H W -> B C H W
        loss = ctx.loss(out, batch, count_scale)
        loss.backward()
        yield Step(loss.detach(), out.detach())

    return of


def share(net: Net, spiking: Net, bins: int) -> Net:
    """The spiking network with the ANN's present weights, one event for each unit; biases spread over ``bins``."""
    ones: dict[str, Scale] = dict.fromkeys([INPUT, *weighted(net)], 1.0)
    return carry_over(fold(net), spiking, ones, ones, bins=bins)


@torch.no_grad()
def spike_counts(
    ctx: TrainingContext, spiking: Net, batch: Batch, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """Spikes of each neuron over the whole batch: the chip's, where one is in the loop, else in time steps.

    Args:
        ctx: the run.
        spiking: the network.
        batch: in the run's time steps.
        names: layers of neurons whose counts are wanted; None for all. The output of the network comes as well.

    Shape:
        (B, ...) each.
    """
    if ctx.observer is not None:
        ctx.observer.load(spiking)
        ctx.observer.open(batch)
        return {name: seen.counts.sum(0) for name, seen in ctx.observer.windows().items()}  # T B ... -> B ...
    if names is None:
        names = list(spiking_layers(spiking))
    with evaluating(spiking):
        out, _, counts = forward(spiking, batch.frames.to(ctx.device), ends=False, total=names)
    return {**counts, spiking.plan.output: out.sum(0)}  # T B K -> B K


def coupled(net: Net, x: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """The ANN's output, with the values of the layers named replaced; the gradient stays the ANN's.

    Shape:
        x: (B, C, H, W), values: (B, ...) each. Returns (B, K).
    """

    def layer(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        y: Tensor = module(*inputs)
        return substitute(y, values[name]) if name in values else y

    return walk(net, x, layer)[0]
