"""Which modules of a user's own network a plan computes as they are, and what of them a target that rewrites it loses.

A plan computes neurons itself, and a chip (or whatever rounds by its rule) makes numbers of weights and thresholds. A
module that computes something else, by a hook, a ``forward`` of its own or an option that :func:`neurons.run` does not
know, must not become one of a plan's layers in silence.
"""

from __future__ import annotations

from typing import Any

import sinabs.layers as sl
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune, remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm

from cil_spl.base.errors import RequestError
from cil_spl.models import neurons
from cil_spl.models.layers import Bias, ScaleNorm
from cil_spl.models.net import Net

FORWARDS = (sl.LIF.forward, sl.LIFSqueeze.forward, sl.IAFSqueeze.forward)
KNOWN = (nn.Linear, nn.ReLU, nn.AvgPool2d, sl.SumPool2d, nn.Flatten, nn.BatchNorm1d, nn.BatchNorm2d, ScaleNorm, Bias)


def hooks_of(module: nn.Module, *, backward: bool = True) -> list[str]:
    """What hooks a module has, in the words of torch; those on its gradients too where ``backward``."""
    m: Any = module
    found = {"forward_pre": m._forward_pre_hooks, "forward": m._forward_hooks}
    if backward:
        found |= {"backward_pre": m._backward_pre_hooks, "backward": m._backward_hooks}
    return [name for name, hooks in found.items() if hooks]


def computes_as_torch(module: nn.Module) -> bool:
    """Whether one of the plain layers has the ``forward`` of its class in torch, sinabs or here."""
    return "forward" not in vars(module) and any(
        isinstance(module, kind) and type(module).forward is kind.forward for kind in KNOWN
    )


def reason_against(module: nn.Module) -> str | None:
    """What a layer of sinabs' neurons does that :func:`neurons.run` does not; None if nothing."""
    if not neurons.is_spiking(module):
        return f"{type(module).__name__} is no layer of spiking neurons"
    layer: Any = module
    reset = layer.reset_fn
    if hooks_of(module):
        return f"{type(module).__name__} has a {hooks_of(module)[0]} hook"
    if type(module).forward not in FORWARDS or "forward" in vars(module):
        return f"{type(module).__name__} has a forward of its own"
    if layer.tau_syn_calculated is not None:
        return f"tau_syn={_shown(layer.tau_syn_calculated)} gives it a synaptic current"
    if layer.spike_fn not in neurons.SPIKE_FNS.values():
        return f"spike_fn={getattr(layer.spike_fn, '__name__', layer.spike_fn)} is neither MultiSpike nor SingleSpike"
    if type(reset) not in neurons.RESET_FNS.values():
        return f"reset_fn={type(reset).__name__} is neither MembraneSubtract nor MembraneReset"
    if getattr(reset, "subtract_value", None) is not None:
        return f"reset_fn subtracts subtract_value={reset.subtract_value} in place of the threshold"
    if getattr(reset, "reset_value", 0) != 0:
        return f"reset_fn resets to reset_value={reset.reset_value} in place of 0"
    if layer.spike_threshold.numel() != 1:
        return f"spike_threshold has {layer.spike_threshold.numel()} values, and a plan's layer has one"
    return None


def _shown(value: torch.Tensor) -> str:
    return f"{float(value.detach()):g}" if value.numel() == 1 else f"{value.numel()} values"


def check_rewritable(net: Net) -> None:
    """Refuse a user's network that a target cannot rewrite without losing part of it.

    Raises:
        RequestError: names the layer, what it does, and what to do.
    """
    for name, module in net.named_children():
        inner: Any = getattr(module, "module", module)
        kind = net.plan.named(name).kind
        if neurons.is_spiking(inner) and (reason := reason_against(inner)):
            raise RequestError(
                f"layer {name}: {reason}, which a chip has not; use sinabs' IAF neurons without it, or target=software"
            )
        if isinstance(inner, nn.Sequential) and (what := _of_its_own(inner)):
            raise RequestError(
                f"layer {name}: {type(inner).__name__} has {what}, so it stays in one piece, and a chip needs its "
                "layers; give a plain nn.Sequential, or use target=software"
            )
        if kind not in ("module", "stateful"):
            check_hooks(name, module, "a chip has its weights alone")


def check_hooks(name: str, module: nn.Module, why: str) -> None:
    """Refuse a hook that changes what a layer of a plan gives, where the layer is rewritten.

    Raises:
        RequestError: there is one; names the layer.
    """
    if found := hooks_of(module, backward=False):
        raise RequestError(
            f"layer {name}: {type(module).__name__} has a {found[0]} hook, which is lost where {why}; remove it, or "
            "use target=software"
        )


def is_chain(made: nn.Module) -> bool:
    """Whether a network is its children, one after the other, and nothing else."""
    return isinstance(made, nn.Sequential) and not _of_its_own(made)


def _of_its_own(made: nn.Module) -> str | None:
    """What an ``nn.Sequential`` has beside its children."""
    if hasattr(made, "over_time"):
        return "over_time"
    if type(made).forward is not nn.Sequential.forward or "forward" in vars(made):
        return "a forward of its own"
    return f"a {hooks_of(made)[0]} hook" if hooks_of(made) else None


def remarks_of(net: Net) -> list[str]:
    """What a user should know of hooks that stay where they are."""
    return [
        f"layer {layer.name}: its {found[0]} hook sees all time steps in the batch axis, (T B, ...), and is not called "
        "where a method computes the layer itself (method=ottt)"
        for layer in net.plan.layers
        if layer.kind not in ("module", "stateful", "neuron") and (found := hooks_of(net.get_submodule(layer.name)))
    ]


# --- weights that are computed of others ------------------------------------------------------------------------------


class Masked(nn.Module):
    """Weights of which some are cut, as torch.nn.utils.prune cuts them."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask: torch.Tensor
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


def as_parametrizations(made: nn.Module) -> None:
    """Put torch's parametrizations in the place of the hooks by which it computed weights before.

    A hook leaves a weight as the last forward pass had it, so that a copy, or a chip, may see an old one.
    """
    for module in made.modules():
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                name, dim = hook.name, hook.dim
                remove_weight_norm(module, name)
                parametrizations.weight_norm(module, name, dim)
            elif isinstance(hook, prune.BasePruningMethod):
                name: str = hook._tensor_name  # type: ignore[no-redef]
                mask = getattr(module, f"{name}_mask").clone()
                prune.remove(module, name)
                parametrize.register_parametrization(module, name, Masked(mask))
