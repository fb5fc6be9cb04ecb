"""The forward pass in time steps, with explicit state, and with values observed on another machine.

Two hands may reach in: ``weigh`` computes what a layer with weights does (traces, feedback weights, a cut), ``fire``
what neurons do (other gradients, noise). A method passes them; nothing else of the pass is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cil_spl.models import blocks, neurons
from cil_spl.models.layers import over_steps
from cil_spl.models.net import Net, walk
from cil_spl.models.neurons import Observation
from cil_spl.models.plan import INPUT

State = dict[str, Tensor]
Weigh = Callable[[str, nn.Module, Tensor], Tensor]
Fire = Callable[[str, nn.Module, Tensor, Tensor | None, Observation | None], tuple[Tensor, Tensor]]


def plain(name: str, module: nn.Module, x: Tensor) -> Tensor:
    """What a layer with weights does by itself. Shapes: (T, B, ...) → (T, B, ...)."""
    return over_steps(module, x)


@dataclass(frozen=True)
class straight_through:
    """Neurons whose gradient passes unchanged in the layers named; both are arguments of :func:`neurons.run`."""

    names: Collection[str] = ()
    through_time: bool = True

    def __call__(
        self, name: str, layer: nn.Module, current: Tensor, v_mem: Tensor | None, observed: Observation | None
    ) -> tuple[Tensor, Tensor]:
        return neurons.run(name, layer, current, v_mem, observed, name in self.names, self.through_time)


def forward(
    net: Net,
    frames: Tensor,
    state: State | None = None,
    observed: Mapping[str, Observation] | None = None,
    record: Collection[str] = (),
    *,
    weigh: Weigh = plain,
    fire: Fire = neurons.run,
    ends: bool = True,
    total: Collection[str] = (),
) -> tuple[Tensor, State, dict[str, Tensor]]:
    """Run a network through all time steps of a batch.

    Args:
        net: its layers take all steps at once, but where the plan has feedback: then one step after the other.
        frames: event counts, or other values at each step.
        state: ``v_mem`` of each spiking layer and the content of each delay before the first step; where absent, zero
            (neurons: their ``v_init``).
        observed: for a spiking layer's name, what another machine saw it do (see :func:`neurons.run`).
        record: names of layers whose output is wanted.
        weigh: what a layer with weights does.
        fire: what a layer of neurons does.
        ends: whether the states after the last step are wanted; a convolution need not be computed for them alone.
        total: names of layers of neurons whose output is wanted as its sum over the steps, which costs less.

    Returns:
        the output, the states after the last step (some of them, where they are not wanted), and the records by name.

    Shape:
        frames: (T, B, C, H, W). Output: (T, B, K). Records: (T, B, ...), of a total (B, ...).
    """
    state = dict(state or {})
    observed = observed or {}
    if not net.plan.has_feedback():
        return _run(net, frames, state, observed, record, weigh, fire, ends, total)
    outputs, records = [], {name: [] for name in (*record, *total)}  # type: ignore[var-annotated]
    for t in range(len(frames)):
        seen = {name: at(one, t, t + 1) for name, one in observed.items()}
        out, state, found = _run(net, frames[t : t + 1], state, seen, record, weigh, fire, True, total)
        outputs.append(out)
        for name in records:
            records[name].append(found[name])
    put = {name: torch.cat(parts) if name in record else torch.stack(parts).sum(0) for name, parts in records.items()}
    return torch.cat(outputs), state, put


def at(seen: Observation, first: int, end: int) -> Observation:
    """What was seen from time step ``first`` up to ``end``, without it. Shapes (end - first, B, ...)."""
    return Observation(seen.counts[first:end], None if seen.v_mem is None else seen.v_mem[first:end])


def _run(
    net: Net,
    frames: Tensor,
    state: State,
    observed: Mapping[str, Observation],
    record: Collection[str],
    weigh: Weigh,
    fire: Fire,
    ends: bool,
    total: Collection[str],
) -> tuple[Tensor, State, dict[str, Tensor]]:
    """The steps of ``frames`` at once; a delay, which a plan with feedback has, holds for one of them."""
    kinds = net.plan.kinds
    delays = net.plan.delays
    in_one = _OnePass(net, {*record, *delays.values()}, weigh, fire, ends, total)

    def layer(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        kind = kinds[name]
        if in_one.takes(name, inputs[0]):
            return in_one.layer(name, module, inputs[0], state, observed.get(name))
        if neurons.is_spiking(module):
            out, state[name] = fire(name, module, inputs[0], state.get(name), observed.get(name))
            if name in total:
                in_one.totals[name] = out.detach().sum(0)
            return out
        if kind.over == "time":
            out, state[name] = module(*inputs, state.get(name))
            return out
        return weigh(name, module, inputs[0]) if kind.weight else over_steps(module, *inputs)

    if not delays:
        out, records = walk(net, frames, layer, record)
        return out, state, records | in_one.totals
    shapes = {} if all(name in state for name in delays) else net.plan.shapes()
    given = {
        name: state[name][None] if name in state else frames.new_zeros(1, frames.shape[1], *shapes[name])
        for name in delays
    }
    out, found = walk(net, frames, layer, {*record, *delays.values()}, given)
    state |= {name: (frames if source == INPUT else found[source])[0] for name, source in delays.items()}
    return out, state, {name: found[name] for name in record} | in_one.totals


class _OnePass:
    """The blocks of a walk that are computed in one pass (:mod:`cil_spl.models.blocks`), when neurons are reached."""

    def __init__(
        self, net: Net, wanted: Collection[str], weigh: Weigh, fire: Fire, ends: bool, total: Collection[str]
    ) -> None:
        self.net, self.wanted, self.ends, self.total = net, wanted, ends, total
        self.totals: dict[str, Tensor] = {}
        common = weigh is plain and (fire is neurons.run or isinstance(fire, straight_through))
        self.blocks = net.blocks if common and net.backend.backend != "sinabs" else {}
        self.fire = fire if isinstance(fire, straight_through) else straight_through()
        self.taken: set[str] = set()
        self.again: set[str] = set()  # of them those that torch computes, and again for the backward pass

    def takes(self, name: str, x: Tensor) -> bool:
        block = self.blocks.get(name)
        if block is None or name != block.conv:
            return block is not None and block.conv in self.taken
        backend = self.net.backend
        if block.conv in self.wanted or blocks.reason_against(block, self.net, x) is not None:
            return False
        if backend.backend != "fused" and not blocks.pays(self.net.get_submodule(name)):
            if not (backend.recompute and torch.is_grad_enabled()) or block.neuron in self.total:
                return False
            self.again.add(name)
        self.taken.add(name)
        return True

    def layer(self, name: str, module: nn.Module, x: Tensor, state: State, observed: Observation | None) -> Tensor:
        block, net = self.blocks[name], self.net
        pooled = block.neuron not in self.wanted
        if name == block.neuron:
            ends, lean = self.ends or observed is None, net.backend.recompute
            how = {"straight_through": name in self.fire.names, "through_time": self.fire.through_time}
            if block.conv in self.again:
                x, end = blocks.run_again(block, net, x, state.get(name), observed, pooled, **how)
            else:
                start = state.get(name, neurons.initial(module))
                counted = name in self.total
                x, end, total = blocks.run(block, net, x, start, observed, pooled, ends, lean, counted, **how)
                if counted:
                    self.totals[name] = total
            if ends:
                state[name] = end
            return x
        return over_steps(module, x) if name == block.pool and not pooled else x
