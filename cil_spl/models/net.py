"""A network of a plan, and the walk over its graph that everything which computes with it goes through."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, TypeVar

import sinabs.layers as sl
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from cil_spl.base.errors import RequestError
from cil_spl.models import neurons
from cil_spl.models.blocks import Block, blocks
from cil_spl.models.options import Backend
from cil_spl.models.plan import INPUT, Plan

V = TypeVar("V")


class Net(nn.Module):
    """The modules of a plan, by the names of its layers.

    Calling it computes one step of the graph, neurons included; a time-stepped network is run by
    :func:`cil_spl.models.forward.forward`.

    Args:
        plan: how they are wired.
        modules: one for each layer of the plan, by its name, in the plan's order.

    Raises:
        RequestError: other names, or another order.
    """

    def __init__(self, plan: Plan, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.plan = plan
        self.remarks: tuple[str, ...] = ()  # what its user should know, of a network of their own
        self.scaled_by = ""  # the option that says how large its weights are beside its thresholds, for messages
        if list(modules) != [layer.name for layer in plan.layers]:
            raise RequestError(
                f"model {plan.name}: it has the modules {', '.join(modules)}; its plan needs, in this order, "
                f"{', '.join(layer.name for layer in plan.layers)}"
            )
        for name, module in modules.items():
            self.add_module(name, module)
        self.compute_by(Backend())

    def compute_by(self, backend: Backend) -> Net:
        """Say how its neurons are computed; this network."""
        self.backend = backend
        for module in self.modules():
            if isinstance(module, sl.StatefulLayer):
                module.backend = backend.backend
        return self

    @cached_property
    def blocks(self) -> dict[str, Block]:
        """What is computed in one pass, by the name of each layer in it."""
        return blocks(self.plan)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: x (B, C, H, W)."""
        out, _ = walk(self, x, lambda _, module, inputs: module(*inputs))
        return out

    def __deepcopy__(self, memo: dict[int, Any]) -> Net:
        twin = Net(self.plan, {name: copy.deepcopy(module, memo) for name, module in self.named_children()})
        twin.compute_by(self.backend)
        twin.scaled_by = self.scaled_by
        for module, copied in zip(self.modules(), twin.modules(), strict=True):
            copied.training = module.training
            if parametrize.is_parametrized(copied):  # torch keeps the attribute on a class, which a copy would share
                own = {
                    key: value for key, value in vars(type(copied)).items() if key not in ("__dict__", "__weakref__")
                }
                copied.__class__ = type(type(copied).__name__, type(copied).__bases__, own)
            if isinstance(module, sl.StatefulLayer):
                neurons.like(copied, module)
        return twin

    def as_sequential(self) -> nn.Sequential:
        """The same modules as an ordinary ``nn.Sequential``, as sinabs users know it.

        Raises:
            RequestError: the plan branches.
        """
        if not self.plan.is_chain():
            raise RequestError(
                f"model {self.plan.name}: it branches, and an nn.Sequential is a chain; use the Net itself"
            )
        return nn.Sequential(OrderedDict(self.named_children()))


def walk(
    net: Net,
    x: V,
    layer: Callable[[str, nn.Module, tuple[V, ...]], V],
    record: Collection[str] = (),
    delayed: Mapping[str, V] | None = None,
) -> tuple[V, dict[str, V]]:
    """Go through the layers of a network in their order; a value is let go after its last reader.

    Args:
        net: the network.
        x: what enters: a tensor, or whatever ``layer`` understands, such as spikes and their trace.
        layer: what a layer makes of its inputs.
        record: names of layers whose values are wanted.
        delayed: of each delay, what it gives: its inputs are not asked. The last values of what it reads are recorded.

    Returns:
        the output, and the records by name.
    """
    plan = net.plan
    left = dict(plan.reads)
    values: dict[str, V] = {INPUT: x}
    records: dict[str, V] = {}
    for i, (name, module) in enumerate(net.named_children()):
        if plan.layers[i].kind == "delay":
            assert delayed is not None, "a network with feedback runs in time steps; see models/forward.py"
            values[name] = delayed[name]
        else:
            inputs = plan.inputs(i)
            values[name] = layer(name, module, tuple(values[source] for source in inputs))
            for source in inputs:
                left[source] -= 1
                if not left[source]:
                    del values[source]
        if name in record:
            records[name] = values[name]
    return values[plan.output], records


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Normalisation and dropout as in evaluation, and afterwards as they were."""
    training = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, was in training.items():
            module.training = was


def weighted(net: nn.Module) -> dict[str, nn.Module]:
    """The layers with weights by which events are multiplied, in their order."""
    if not isinstance(net, Net):
        return {name: module for name, module in net.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}
    return {name: net.get_submodule(name) for name, kind in net.plan.kinds.items() if kind.weight}


def spiking_layers(net: nn.Module) -> dict[str, Any]:
    """Layers of spiking neurons, by name."""
    return {name: module for name, module in net.named_children() if neurons.is_spiking(module)}


def master(module: Any) -> nn.Parameter:
    """The weights of a layer that are trained: those that rounded ones are made of, where there are such.

    Of weights that torch's ``weight_norm`` computes it is their amount, the first of the two that they are made of.
    """
    if not parametrize.is_parametrized(module, "weight"):
        free: nn.Parameter = module.weight
        return free
    made_of = module.parametrizations.weight
    found: nn.Parameter = made_of.original if hasattr(made_of, "original") else made_of.original0
    return found


@torch.no_grad()
def copy_weights(
    source: Net,
    into: Net,
    weight: Callable[[str, Tensor], Tensor] = lambda _, w: w,
    bias: Callable[[str, Tensor], Tensor] = lambda _, b: b,
) -> Net:
    """``into`` with the weights and biases of ``source``, scaled by layer; everything else stays.

    Raises:
        RequestError: a layer of ``source`` is missing there.
    """
    there = weighted(into)
    for name, module in weighted(source).items():
        if name not in there:
            raise RequestError(f"model layer {name}: the other network has no such layer")
        own: Any = there[name]
        given: Any = module
        own.weight.copy_(weight(name, given.weight))
        if getattr(given, "bias", None) is not None:
            own.bias.copy_(bias(name, given.bias))
    return into
