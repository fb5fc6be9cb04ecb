"""Spiking layers: construction, one time-stepped layer with its gradient, state-free checkpoints.

A step of integrate-and-fire (alpha = 1) or leaky (alpha = exp(-1 / tau_mem)) neurons, as in sinabs:

    u[t] = alpha v[t-1] + (1 - alpha) I[t]        (IAF: u[t] = v[t-1] + I[t])
    s[t] = trunc(u[t] / theta) where u[t] > 0     (single spike: 1 where u[t] >= theta)
    v[t] = max(u[t] - theta s[t], v_min)          (reset to zero: u[t] where s[t] = 0, else 0)

    theta = spike_threshold, v_min = min_v_mem, I = synaptic input, s = spikes, v = v_mem, v[0] = v_init

The surrogate psi stands for ds/du. A trained threshold has the derivative that goes with it: s is a function of
u / theta, so ds/dtheta = -psi u / theta (single spike: of u - theta, so -psi).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sinabs.activation as sina
import sinabs.layers as sl
import torch
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.models import fused, fused_gpu
from cil_spl.models.options import Neuron
from cil_spl.models.surrogates import SURROGATES, Surrogate

SPIKE_FNS = {"multi": sina.MultiSpike, "single": sina.SingleSpike}
LEAST_THRESHOLD = 0.01  # at 0 or below it neurons would fire without end
RESET_FNS = {"subtract": sina.MembraneSubtract, "zero": sina.MembraneReset}


class Observation(NamedTuple):
    """What another machine saw a layer do in the same time steps, in the float network's units.

    counts: events of each neuron, ``[T, B, ...]``. v_mem: states at the end of each step, or None
    where only the events were seen.
    """

    counts: Tensor
    v_mem: Tensor | None = None


def like(copy: Any, layer: Any) -> Any:
    """A copy of a layer that starts and learns as its original: sinabs' own copies forget what they do not know."""
    for name in ("v_init", "bound_ratio", "init_ratio"):
        if hasattr(layer, name):
            setattr(copy, name, getattr(layer, name))
    for name, parameter in layer.named_parameters():
        getattr(copy, name).requires_grad_(parameter.requires_grad)
    return copy


def make(*, features: int | None = None, axes: int = 3, **options: Any) -> sl.IAFSqueeze | sl.LIFSqueeze:
    """A sinabs layer of spiking neurons, of the options of :class:`cil_spl.models.options.Neuron`.

    Args:
        features, axes: of the maps that it takes, without batch and time; needed for a threshold of each channel.

    Raises:
        RequestError: a LIF layer without ``tau_mem``.
    """
    n = Neuron(**options)
    threshold = torch.tensor(float(n.spike_threshold))
    if n.threshold_per == "channel":
        if features is None:
            raise RequestError("model.neuron.threshold_per=channel: the number of channels is not known here")
        threshold = threshold.repeat(features).view(features, *[1] * (axes - 1))  # C -> C 1 1
    low = None if n.min_v_mem is None else torch.full_like(threshold, float(n.min_v_mem))
    common: dict[str, Any] = {
        "spike_threshold": threshold,
        "spike_fn": SPIKE_FNS[n.spike_fn],
        "reset_fn": RESET_FNS[n.reset_fn](),
        "surrogate_grad_fn": SURROGATES[n.surrogate_grad_fn](**(n.surrogate_args or {})),
        "min_v_mem": low,
        "batch_size": 1,
    }
    layer: Any
    if n.kind == "iaf":
        layer = sl.IAFSqueeze(**common)
    else:
        if n.tau_mem is None:
            raise RequestError("model.neuron.tau_mem=null: a LIF neuron needs its time constant, in time steps")
        layer = sl.LIFSqueeze(tau_mem=float(n.tau_mem), **common)
        layer.tau_mem.requires_grad_(False)  # a constant of the network here, not a weight
    layer.spike_threshold.requires_grad_(n.trained_threshold)
    layer.v_init = float(n.v_init)
    if n.threshold_per == "channel" and n.min_v_mem is not None:
        layer.bound_ratio = float(n.min_v_mem) / float(n.spike_threshold)
    if n.threshold_per == "channel" and n.v_init:
        layer.init_ratio = float(n.v_init) / float(n.spike_threshold)
    return layer


def lower_bound(layer: sl.LIF) -> Tensor | None:
    """The lower bound of a layer's states; with a threshold of each channel, its part of that threshold."""
    if layer.min_v_mem is None or not hasattr(layer, "bound_ratio"):
        return layer.min_v_mem
    return layer.bound_ratio * layer.spike_threshold


def initial(layer: sl.LIF) -> float | Tensor:
    """The states of a layer before the first step; with a threshold of each channel, their part of that threshold."""
    if hasattr(layer, "init_ratio"):
        return layer.init_ratio * layer.spike_threshold
    return float(getattr(layer, "v_init", 0.0))


def written(value: Tensor) -> str:
    """A threshold, a bound or a start for messages; of several channels the range."""
    return f"{float(value):g}" if value.numel() == 1 else f"{float(value.min()):g} to {float(value.max()):g}"


def input_gain(layer: Any) -> float:
    """The factor that a layer has on its input: 1 - alpha where sinabs norms it, its mean where channels differ."""
    leaky = isinstance(layer, sl.LIF) and not isinstance(layer, sl.IAF)
    return 1 - float(layer.alpha_mem_calculated.mean()) if leaky and layer.norm_input else 1.0


def one_threshold(layer: sl.LIF) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """A layer whose channels have one threshold and one bound, and spike as they do.

    Returns:
        the factor on each channel's weights, None where there is one threshold already; threshold; lower bound.
    """
    theta, low = layer.spike_threshold.detach(), lower_bound(layer)
    if theta.numel() == 1:
        return None, theta, low
    common = theta.max()
    return (common / theta).flatten(), common, None if low is None else layer.bound_ratio * common


def run(
    name: str,
    layer: sl.LIF,
    current: Tensor,
    v_mem: Tensor | None = None,
    observed: Observation | None = None,
    straight_through: bool = False,
    through_time: bool = True,
) -> tuple[Tensor, Tensor]:
    """Run a layer of neurons through all time steps.

    Args:
        name: of the layer; what is passed as ``fire`` may tell layers apart by it.
        layer: a sinabs IAF or LIF layer; its own buffers are neither read nor written.
        current: synaptic input.
        v_mem: states before the first step; the layer's ``v_init`` if None.
        observed: take counts (and states, where given) from here; the gradient stays this layer's. Where an
            observed state is not what the layer would have come to, the surrogate is evaluated at the ``u`` that
            explains it, ``v_mem + theta * counts``.
        straight_through: hand the gradient of the spikes to the membrane unchanged, and past the lower
            bound. For output neurons: one that never fires would otherwise learn nothing.
        through_time: whether the gradient goes back through the states; else each step counts them as constants.

    Returns:
        spikes of every step, and the states after the last.

    Raises:
        RequestError: the layer's ``backend`` is ``fused``, and that does not do what the layer asks.

    Shape:
        current, spikes: (T, B, ...); v_mem: (B, ...).
    """
    if not isinstance(layer, sl.IAF) and layer.norm_input:
        current = current * (1 - layer.alpha_mem_calculated.to(current.device))
    if v_mem is None:
        start = initial(layer)
        v = torch.full_like(current[0], start) if isinstance(start, float) else start.expand_as(current[0])
    else:
        v = v_mem
    backend, path = getattr(layer, "backend", "auto"), fused_gpu if current.is_cuda else fused
    if backend != "sinabs" and path.supports(layer, current):
        return path.run(layer, current, v, straight_through, *(observed or ()), through_time=through_time)
    if backend == "fused":
        raise RequestError(
            f"neurons.backend=fused: layer {name} is computed step by step, because "
            f"{fused.reason_against(layer) or f'its currents are {current.dtype} on {current.device}'}; use auto"
        )
    psi: Surrogate = _one if straight_through else layer.surrogate_grad_fn
    return _step_by_step(layer, current, v, observed, psi, straight_through, through_time)


def _step_by_step(
    layer: sl.LIF,
    current: Tensor,
    v: Tensor,
    observed: Observation | None,
    psi: Surrogate,
    straight_through: bool,
    through_time: bool,
) -> tuple[Tensor, Tensor]:
    """What :func:`run` does, in torch."""
    threshold, low = layer.spike_threshold, lower_bound(layer)
    alpha, leaky = layer.alpha_mem_calculated.to(current.device), not isinstance(layer, sl.IAF)
    spikes = []
    for t in range(current.shape[0]):
        v = v if through_time else v.detach()
        u = alpha * v + current[t] if leaky else v + current[t]
        if observed is None:
            s = _Spike.apply(u, None, None, layer.spike_fn, threshold, psi)
        else:
            counts, seen = observed.counts[t], None
            if observed.v_mem is not None:
                with torch.no_grad():
                    own = layer.reset_fn(counts, {"v_mem": u}, threshold)["v_mem"]
                    own = own if low is None else torch.relu(own - low) + low
                    seen = torch.where(observed.v_mem[t] == own, u, observed.v_mem[t] + threshold * counts)
            s = _Spike.apply(u, counts, seen, layer.spike_fn, threshold, psi)
        v = layer.reset_fn(s, {"v_mem": u}, threshold)["v_mem"]
        if low is not None:
            v = _StraightClip.apply(v, low) if straight_through else torch.relu(v - low) + low
        if observed is not None and observed.v_mem is not None:
            v = substitute(v, observed.v_mem[t])
        spikes.append(s)
    return torch.stack(spikes), v


def substitute(twin: Tensor, observed: Tensor) -> Tensor:
    """The observed value, with the gradient of the twin. Exact: no sum of the two is formed."""
    return _Substitute.apply(twin, observed)


def is_spiking(module: nn.Module) -> bool:
    """Whether a module is a layer of spiking neurons that :func:`run` computes: no recurrence, no bare leak."""
    return isinstance(module, sl.LIF) and not isinstance(module, (sl.LIFRecurrent, sl.IAFRecurrent, sl.ExpLeak))


@torch.no_grad()
def keep_positive(net: nn.Module) -> None:
    """Hold trained thresholds at :data:`LEAST_THRESHOLD` or above, wherever a step has taken them."""
    for module in net.modules():
        threshold = module.spike_threshold if isinstance(module, sl.LIF) else None  # sinabs' ExpLeak has none
        if threshold is not None and threshold.requires_grad:
            threshold.clamp_(min=LEAST_THRESHOLD)


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and normalisation statistics of a network, without any neuron's state.

    sinabs keeps ``v_mem`` among the buffers, where a checkpoint would pick it up.
    """
    stateful = {name for name, module in net.named_modules() if isinstance(module, sl.StatefulLayer)}
    weights = {name: p.detach().clone() for name, p in net.named_parameters()}
    for name, buffer in net.named_buffers():
        if name.rpartition(".")[0] not in stateful:
            weights[name] = buffer.detach().clone()
    return weights


def load_weights(net: nn.Module, weights: dict[str, Tensor]) -> None:
    """Put :func:`weights_of` back.

    Raises:
        RequestError: names or shapes are not those of the network.
    """
    have = dict(net.named_parameters()) | dict(net.named_buffers())
    for name in weights_of(net):
        given = weights.get(name)
        if not isinstance(given, Tensor) or given.shape != have[name].shape:
            found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__ if given else "nothing"
            raise RequestError(
                f"weights: {name} should have shape {tuple(have[name].shape)}, found {found}; "
                "they belong to another model"
            )
    with torch.no_grad():
        for name, value in weights.items():
            if name in have:
                have[name].copy_(value)


def _one(v_mem: Tensor, spike_threshold: Tensor) -> Tensor:
    return torch.ones_like(v_mem)


class _Spike(torch.autograd.Function):
    """Spikes of sinabs' ``spike_fn``, or observed ones; gradient psi at u, or at the observed u."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, counts: Any, seen: Any, spike_fn: Any, threshold: Tensor, psi: Surrogate
    ) -> Tensor:
        ctx.save_for_backward(u if seen is None else seen, threshold)
        ctx.psi, ctx.multi = psi, spike_fn is sina.MultiSpike
        if counts is not None:
            return counts.clone()
        if spike_fn is sina.MultiSpike:
            return torch.where(u > 0, torch.trunc(u / threshold), torch.zeros_like(u))
        if spike_fn is sina.SingleSpike:
            return (u - threshold >= 0).to(u.dtype)
        raise RequestError(f"model.neuron.spike_fn: {spike_fn} is not known here; allowed: {', '.join(SPIKE_FNS)}")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        u, threshold = ctx.saved_tensors
        by_u = grad * ctx.psi(u, threshold)
        by_threshold = None
        if ctx.needs_input_grad[4]:
            # Several spikes are a function of u / theta, a single one is a function of u - theta.
            by_threshold = -(by_u * u / threshold if ctx.multi else by_u).sum_to_size(threshold.shape)
        return by_u, None, None, None, by_threshold, None


class _Substitute(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, twin: Tensor, observed: Tensor) -> Tensor:
        return observed.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None


class _StraightClip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, v: Tensor, low: Tensor) -> Tensor:
        return torch.relu(v - low) + low  # sinabs' arithmetic, to the bit

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad, None
