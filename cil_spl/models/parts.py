"""Parts of a network that neurons separate: what layer-wise conversion takes one after another."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from cil_spl.models.net import Net
from cil_spl.models.plan import INPUT, Plan


@dataclass(frozen=True)
class Part:
    """Layers that are converted together.

    Attributes:
        layers: names of the layers between the neurons before it and its own: weights, what stands in front of and
            after them, and the neurons.
        end: the layer of neurons; or the network's output where it has none.
        spikes: whether ``end`` are neurons.
    """

    layers: tuple[str, ...]
    end: str
    spikes: bool


def parts_of(plan: Plan) -> list[Part]:
    """The layers of neurons in their order, each with all that leads to it; at the end a read-out without neurons."""
    found: list[Part] = []
    done: set[str] = set()
    spiking = [layer.name for layer in plan.layers if layer.kind == "neuron"]
    for end in dict.fromkeys([*spiking, plan.output]):
        members: set[str] = set()
        waiting = [end]
        while waiting:
            name = waiting.pop()
            if name != INPUT and name not in done | members:
                members.add(name)
                waiting += plan.inputs_of(name)
        done |= members
        layers = tuple(layer.name for layer in plan.layers if layer.name in members)
        found.append(Part(layers, end, end in spiking))
    return found


def feeding(plan: Plan, part: Part) -> list[str]:
    """The weight layers that feed a part's neurons."""
    own = [name for name in part.layers if plan.kinds[name].weight]
    return own or [name for name in plan.weights_before(part.end) if name != INPUT]


def needed(plan: Plan, given: Collection[str]) -> tuple[set[str], tuple[str, ...]]:
    """What a network has to compute for its output where the values of some layers are given.

    Returns:
        the layers to compute, and those given whose values are needed for it, in the plan's order.
    """
    computed: set[str] = set()
    used: set[str] = set()
    waiting = [plan.output]
    while waiting:
        name = waiting.pop()
        if name in given:
            used.add(name)
        elif name != INPUT and name not in computed:
            computed.add(name)
            waiting += plan.inputs_of(name)
    return computed, tuple(layer.name for layer in plan.layers if layer.name in used)


def upto(net: Net, last: str) -> Net:
    """A network up to one of its layers, with the same modules."""
    names = [layer.name for layer in net.plan.layers]
    return some_of(net, names[: names.index(last) + 1])


def after(net: Net, start: str, part: Part) -> Net | None:
    """The layers of a part as a network whose input is what ``start`` gives, with the same modules.

    None where they read something else besides.
    """
    plan = net.plan
    layers = [layer for layer in plan.layers if layer.name in part.layers]
    if any({*plan.inputs_of(layer.name)} - {start, *part.layers} for layer in layers):
        return None
    renamed = {start: INPUT}
    wired = [
        replace(layer, inputs=tuple(renamed.get(name, name) for name in plan.inputs_of(layer.name))) for layer in layers
    ]
    modules = {layer.name: net.get_submodule(layer.name) for layer in layers}
    shape: Any = plan.shapes()[start]  # a vector as it is, too
    return Net(Plan(plan.name, shape, tuple(wired)), modules).compute_by(net.backend)


def some_of(net: Net, names: Collection[str]) -> Net:
    """Some layers of a network as one, with the same modules; what they read keeps its name."""
    plan = net.plan
    layers = [replace(layer, inputs=plan.inputs_of(layer.name)) for layer in plan.layers if layer.name in names]
    modules = {layer.name: net.get_submodule(layer.name) for layer in layers}
    return Net(replace(plan, layers=tuple(layers)), modules).compute_by(net.backend)


def freeze(net: Net, part: Part) -> None:
    """Let a part's layers learn no more, and normalise as in evaluation."""
    for name in part.layers:
        module = net.get_submodule(name)
        module.eval()
        module.requires_grad_(False)
