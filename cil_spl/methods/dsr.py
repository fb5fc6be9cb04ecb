"""Differentiation on spike representation: spikes forward, the gradient of the averages that they stand for.

Paper: Q. Meng, M. Xiao, S. Yan, Y. Wang, Z. Lin, Z.-Q. Luo, "Training High-Performance Low-Latency Spiking Neural
Networks by Differentiation on Spike Representation", CVPR 2022 (arXiv:2205.00459).

The weighted average of a neuron's spikes is that of its input, clamped, but for what is left in its membrane. So the
network runs in spikes, and learns as the network of clamps that it approximates:

    IF     m += I[t],                          o[t] = theta where m >= alpha theta,      m -= theta
    LIF    m <- beta m + (1 - beta) I[t],      o[t] = theta / (1 - beta) there,          m -= theta
    r(o) = sum_t w_t o[t] / sum_t w_t,   w_t = 1 (IF), beta^(T - t) (LIF)
    r(o) ~ clamp(r(I), 0, a),   a = theta (IF), theta / (1 - beta) (LIF)
    backward:   dr(o)/dr(I) := 1 where 0 <= r(I) <= a,   dr(o)/dtheta := da/dtheta where r(I) > a

    symbol   name here          meaning
    theta    spike_threshold    trained where ``train_thresholds``; at least ``threshold_bound``
    alpha    firing_level       part of the threshold at which a neuron fires; 1/2 has the smallest error at one step
    beta     exp(-1 / tau_mem)  the leak
    a        amplitude          of a spike, in the coordinates of training
    r        rates              the weighted average over the time steps

What comes out is an ordinary network: amplitudes become part of the weights, the firing level a start of
(1 - alpha) theta (``v_init``), and for LIF neurons a current as well. Neurons that may spike several times per step
(``spike_fn=multi``, as a chip's) have no upper clamp, and thresholds without a gradient.

With a chip in the loop (``observer=chip``) the rates are those of its counts.

Differences from the paper: LIF neurons have the exact factor 1 - beta where it has dt / tau, and the gradient of their
input goes to the time steps by their weights, not evenly. The threshold's derivative is the exact one, times
``threshold_scale``; the authors' code has other factors for LIF. Output neurons hand their gradient straight through.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import sinabs.activation as sina
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batch
from cil_spl.methods.ottt import leak_of
from cil_spl.models import neurons
from cil_spl.models.fold import fold
from cil_spl.models.forward import forward
from cil_spl.models.layers import WeighTime
from cil_spl.models.net import Net, evaluating, spiking_layers
from cil_spl.models.neurons import Observation, input_gain
from cil_spl.models.plan import INPUT, Layer, Plan
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires


def check(cfg: Any) -> list[str]:
    """Refuse rounded weights in training."""
    if cfg.quantize.aware or cfg.model.aware:
        key = "quantize.aware" if cfg.quantize.aware else "model.aware"
        raise RequestError(
            f"{key}=true: method=dsr trains weights for spikes that have their threshold as amplitude, and others lie "
            f"on the chip; use {key}=false"
        )
    return []


REQUIRES = Requires(
    family="snn",
    observer="optional",
    neuron={"reset_fn": ("subtract",), "threshold_per": ("layer",)},
    check=check,
)


def train(
    ctx: TrainingContext,
    *,
    lr: Annotated[float, Gt(0)] = 5e-3,
    firing_level: Annotated[float, Gt(0), Le(1)] = 0.5,
    train_thresholds: bool = True,
    threshold_bound: Annotated[float, Ge(0.01)] = 0.01,
    threshold_scale: Annotated[float, Ge(0)] = 1.0,
    count_scale: Annotated[float, Gt(0)] = 1.0,
    straight_through_output: bool = True,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train a spiking network by DSR.

    Args:
        ctx: the run; its ``observer``, where there is one, is a chip in the loop.
        lr: learning rate, of thresholds too.
        firing_level: part of its threshold at which a neuron fires.
        train_thresholds: whether thresholds learn, one for each layer; those of neurons with several spikes per step
            have no gradient.
        threshold_bound: the least that a trained threshold may be.
        threshold_scale: factor on the derivative by a threshold.
        count_scale: factor on the sum of the outputs before the softmax (an inverse temperature).
        straight_through_output: whether the gradient of the output neurons passes unchanged.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.

    Raises:
        RequestError: feedback.
    """
    if ctx.plan.has_feedback():
        raise RequestError("method=dsr: a network with feedback has no clamps that it approximates; use method=bptt")
    net = ctx.build("snn")
    ctx.scale(net, init_rate)
    for layer in spiking_layers(net).values():
        layer.spike_threshold.requires_grad_(train_thresholds and layer.spike_fn is sina.SingleSpike)

    def spiking() -> Net:
        bound(net, threshold_bound)
        return in_spikes(net, firing_level)

    along = gradient(
        net,
        ctx,
        firing_level=firing_level,
        threshold_bound=threshold_bound,
        threshold_scale=threshold_scale,
        count_scale=count_scale,
        straight_through_output=straight_through_output,
    )
    learn(ctx, net, along, lr=lr, score=lambda: ctx.score(spiking()))
    ctx.finish(net)
    return Trained(spiking())


def gradient(
    net: Net,
    ctx: TrainingContext,
    *,
    firing_level: float,
    count_scale: float,
    straight_through_output: bool,
    threshold_bound: float = 0.01,
    threshold_scale: float = 1.0,
) -> Gradient:
    """The gradient of the clamps, at the rates of the spikes; options as in :func:`train`."""
    straight = (net.plan.output,) if straight_through_output else ()
    leak = leak_in(net)
    # What is linear may see the averages alone, which is a T-th of the work; statistics of a batch need all steps.
    by_steps = any(layer.kind == "norm" for layer in net.plan.layers)

    def of(batch: Batch) -> Iterator[Step]:
        frames = batch.frames.to(ctx.device)
        bound(net, threshold_bound)
        spikes: Mapping[str, Tensor] = {}
        if not by_steps or ctx.observer is not None:
            spikes = spikes_of(in_spikes(net, firing_level), ctx, batch)
        if not by_steps:
            frames = rate(frames, leak)[None]
            spikes = {name: rate(one, leak)[None] for name, one in spikes.items()}
        fire = Clamps(spikes, leak, firing_level, threshold_scale, straight)
        out = rate(forward(net, frames, fire=fire)[0], leak)
        loss = ctx.loss(len(batch.frames) * out, batch, count_scale)
        loss.backward()
        yield Step(loss.detach(), out.detach())

    return of


def rate(x: Tensor, leak: float) -> Tensor:
    """The average over time steps, the last ones weighted most where neurons leak. Shapes: (T, B, ...) → (B, ...)."""
    weights = weights_of_steps(len(x), leak).to(x)
    return torch.tensordot(weights, x, dims=1)


def weights_of_steps(steps: int, leak: float) -> Tensor:
    """leak^(T - t) for each step, with the sum 1. Shape: (T,)."""
    weights = leak ** torch.arange(steps - 1, -1, -1, dtype=torch.float64)
    return weights / weights.sum()


def leak_in(net: Net) -> float:
    """alpha of all neurons of a network.

    Raises:
        RequestError: there are several.
    """
    found = {leak_of(layer) for layer in spiking_layers(net).values()}
    if len(found) > 1:
        raise RequestError("method=dsr: neurons of several time constants have no common average; use one tau_mem")
    return found.pop() if found else 1.0


def amplitude(layer: Any) -> Tensor:
    """Of a spike in training: the threshold over the gain of the input. Without axes."""
    return layer.spike_threshold.detach().squeeze() / input_gain(layer)


@torch.no_grad()
def bound(net: Net, least: float) -> None:
    """Hold trained thresholds at ``least`` or above."""
    for layer in spiking_layers(net).values():
        if layer.spike_threshold.requires_grad:
            layer.spike_threshold.clamp_(min=least)


@torch.no_grad()
def spikes_of(spiking: Net, ctx: TrainingContext, batch: Batch) -> dict[str, Tensor]:
    """Spikes of all layers of neurons: the chip's, where one is in the loop. Shapes (T, B, ...)."""
    if ctx.observer is not None:
        ctx.observer.load(spiking)
        ctx.observer.open(batch)
        return {name: seen.counts for name, seen in ctx.observer.windows().items()}
    with evaluating(spiking):
        return forward(spiking, batch.frames.to(ctx.device), record=list(spiking_layers(spiking)))[2]


class Clamps:
    """What neurons do: the spikes of their own, or given ones, with their amplitude, and the gradient of a clamp.

    Args:
        given: spikes by name, or their rates; those of other layers are computed. Shapes (T, B, ...), of rates T = 1.
        leak: of the neurons, for the weights of the time steps.
        firing_level, threshold_scale: see :func:`train`.
        straight: layers whose gradient passes unchanged.
    """

    def __init__(
        self,
        given: Mapping[str, Tensor],
        leak: float,
        firing_level: float,
        threshold_scale: float,
        straight: Collection[str],
    ) -> None:
        self.given, self.leak, self.straight = given, leak, straight
        self.firing_level, self.threshold_scale = firing_level, threshold_scale

    def __call__(
        self, name: str, layer: Any, current: Tensor, v_mem: Tensor | None, observed: Observation | None
    ) -> tuple[Tensor, Tensor]:
        """Shapes: (T, B, ...) → (T, B, ...), (B, ...)."""
        spikes = self.given.get(name)
        if spikes is None:
            with torch.no_grad():
                start, more = head_start(layer, self.firing_level)
                at_first = torch.full_like(current[0], start)
                spikes = neurons.run(name, layer, current.detach() + more, at_first)[0]
        weights = weights_of_steps(len(current), self.leak).to(current)
        single = layer.spike_fn is sina.SingleSpike
        slope = self.threshold_scale / input_gain(layer)
        a = amplitude(layer).to(current)
        out = _Clamp.apply(
            current, layer.spike_threshold, a * spikes, weights, a if single else None, slope, name in self.straight
        )
        return out, current.detach().new_zeros(current.shape[1:])


class _Clamp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, current: Tensor, theta: Tensor, out: Tensor, weights: Tensor, top: Any, slope: float, straight: bool
    ) -> Tensor:
        rates = None if straight else torch.tensordot(weights, current, dims=1)
        ctx.save_for_backward(rates, weights, theta, top)
        ctx.slope = slope
        return out.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        rates, weights, theta, top = ctx.saved_tensors
        by_rate, by_theta = grad.sum(0), None
        if rates is not None:
            if top is not None and ctx.needs_input_grad[1]:
                by_theta = (ctx.slope * (by_rate * (rates > top)).sum()).expand(theta.shape)
            by_rate = by_rate * ((rates >= 0) if top is None else (rates >= 0) & (rates <= top))
        elif ctx.needs_input_grad[1]:
            by_theta = torch.zeros_like(theta)
        by_current = weights.view(-1, *[1] * by_rate.dim()) * by_rate  # T 1 ... * B ... -> T B ...
        return by_current, by_theta, None, None, None, None, None


def head_start(layer: Any, firing_level: float) -> tuple[float, float]:
    """What makes neurons that fire at their threshold fire at a part of it: their start, and a current at each step.

    Shifted by (1 - firing_level) theta, a membrane fires at theta; a leak has to be made good.
    """
    start = (1 - firing_level) * float(layer.spike_threshold)
    return start, start * (1 - leak_of(layer)) / input_gain(layer)


@torch.no_grad()
def in_spikes(net: Net, firing_level: float) -> Net:
    """The ordinary spiking network: spikes of amplitude 1, a start for the firing level, a leaky sum of the outputs."""
    spiking = fold(net, amplitudes={name: float(amplitude(layer)) for name, layer in spiking_layers(net).items()})
    spiking = copy.deepcopy(spiking) if spiking is net else spiking
    plan, modules = spiking.plan, dict(spiking.named_children())
    biased: set[str] = set()
    for name, layer in spiking_layers(spiking).items():
        layer.spike_threshold.requires_grad_(False)
        layer.v_init, more = head_start(layer, firing_level)
        if more:
            source = next((one for one in plan.weights_before(name) if one != INPUT), None)
            if source is None:
                raise RequestError(f"model layer {name}: no weights feed it; method=dsr needs them for firing_level")
            module: Any = modules[source]
            had = module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias
            module.bias = nn.Parameter(had + more)
            biased.add(source)
    layers = [replace(one, params={**one.params, "bias": True}) if one.name in biased else one for one in plan.layers]
    leak = leak_in(spiking)
    if leak < 1:
        layers.append(Layer("weigh", "weigh_time", {"decay": leak}))
        modules["weigh"] = WeighTime(0, leak)
    return Net(Plan(plan.name, plan.input_shape, tuple(layers)), OrderedDict(modules)).compute_by(net.backend)
