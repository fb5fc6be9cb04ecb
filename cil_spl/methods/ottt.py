"""Online training through time: traces of what went in, in the place of a backward pass through time.

Paper: M. Xiao, Q. Meng, Z. Zhang, D. He, Z. Lin, "Online Training Through Time for Spiking Neural Networks",
NeurIPS 2022 (arXiv:2210.04195).

What a weight did to its neuron's membrane is the trace of the spikes that went through it, known at each step without
looking back. The loss of a step goes back through the layers at this step alone, and meets the traces:

    u_l[t] = alpha v_l[t-1] + W_l s_{l-1}[t],   v_l[t-1] a constant
    a_l[t] = alpha a_l[t-1] + s_l[t]
    L[t] = 1/T l(o[t], label)
    delta_l[t] = (W_{l+1}^T delta_{l+1}[t]) psi(u_l[t]),   dL/dW_l = sum_t delta_l[t] a_{l-1}[t]^T

    symbol   name here           meaning
    T        frames.bins         time steps
    u, v     current + v_mem     membrane before and after the spike test
    a        traces              of what enters a layer with weights, with the leak of the neurons that it feeds
    o        out                 output events of a step, times count_scale
    psi      surrogate_grad_fn   derivative used in the backward pass (the paper's: sigmoid, slope 4)
    alpha    exp(-1 / tau_mem)   1 for integrate-and-fire

``update=accumulate`` (OTTT_A) steps once per batch along the sum over its time steps, ``update=online`` (OTTT_O) at
every time step, with the same learning rate. With a chip in the loop (``observer=chip``) the chip's counts enter traces
and layers step by step.

Differences from the paper: the outputs are spiking neurons, as a chip has them, which hand their gradient straight
through as in bptt.py; no squared error beside the cross entropy. Neurons may spike several times per step and have a
lower bound, of which the traces know nothing, as they know nothing of the reset in the paper. The authors' code gives
the first layer no trace (``trace_input=false``); the derivation asks for one. ``at_once`` time steps are computed
together, which is the same and faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batch
from cil_spl.methods.bptt import output_neurons
from cil_spl.methods.sltt import at_once_on_chip, part_by_part, total
from cil_spl.models.net import Net
from cil_spl.models.plan import INPUT, Plan
from cil_spl.models.synapse import synapse
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires


def check(cfg: Any) -> list[str]:
    """Refuse online updates with a chip in the loop.

    Raises:
        RequestError: names both keys.
    """
    if cfg.method["update"] == "online" and cfg.observer is not None:
        raise RequestError(
            "method.update=online: weights change at every time step, and a chip in the loop runs a batch with one set "
            "of them; use method.update=accumulate, or observer=none"
        )
    return []


REQUIRES = Requires(family="snn", observer="optional", neuron={"reset_fn": ("subtract",)}, check=check)


def train(
    ctx: TrainingContext,
    *,
    update: Literal["accumulate", "online"] = "accumulate",
    lr: Annotated[float, Gt(0)] = 5e-3,
    count_scale: Annotated[float, Gt(0)] = 1.0,
    straight_through_output: bool = True,
    trace_input: bool = True,
    at_once: Annotated[int, Ge(1)] = 4,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train a spiking network by OTTT.

    Args:
        ctx: the run; its ``observer``, where there is one, is a chip in the loop.
        update: once per batch along the sum over time steps (``accumulate``), or at every step (``online``).
        lr: learning rate.
        count_scale: factor on a step's counts before the softmax (an inverse temperature).
        straight_through_output: whether the gradient of the output neurons passes unchanged.
        trace_input: whether the layers that read the input have traces of it too.
        at_once: time steps that are computed together: with fewer, less memory and more time; one with ``online``.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
    """
    online = update == "online"
    net = ctx.build("snn")
    ctx.scale(net, init_rate)
    along = gradient(
        net,
        ctx,
        update=update,
        count_scale=count_scale,
        straight_through_output=straight_through_output,
        trace_input=trace_input,
        at_once=at_once,
    )
    learn(ctx, net, along, lr=lr, updates=ctx.frames.bins if online else 1)
    return Trained(ctx.finish(net))


def gradient(
    net: Net,
    ctx: TrainingContext,
    *,
    count_scale: float,
    straight_through_output: bool,
    update: Literal["accumulate", "online"] = "accumulate",
    trace_input: bool = True,
    at_once: int = 1,
) -> Gradient:
    """What each step's loss says at the traces, summed over the steps or one after the other; options as in train."""
    fire = output_neurons(net, straight_through_output, through_time=False)
    online = update == "online"

    def of(batch: Batch) -> Iterator[Step]:
        steps = part_by_part(
            net,
            ctx,
            batch,
            at_once_on_chip(ctx, net, batch),
            range(len(batch.frames)),
            count_scale=count_scale,
            at_once=1 if online else at_once,
            fire=fire,
            weigh=Traces(net, trace_input),
        )
        if online:
            yield from steps
        else:
            yield total(steps)

    return of


Back = Callable[[str, nn.Module], Tensor | str | None]


class Traces:
    """What layers with weights do: with the traces of their input in the place of it, for the gradient of the weights.

    Pooling and flattening are linear: the trace of what they give is what they give of the trace.

    Args:
        net: whose layers these are.
        trace_input: whether layers that read the network's input have traces, too.
        back: what a layer's gradient goes back through in the place of its weights, see :func:`synapse`.
    """

    def __init__(self, net: Net, trace_input: bool, back: Back = lambda name, module: None) -> None:
        plan, self.back = net.plan, back
        weights = [layer.name for layer in plan.layers if plan.kinds[layer.name].weight]
        traced = [name for name in weights if trace_input or INPUT not in plan.weights_before(name)]
        self.leaks = {name: leak_after(net, name) for name in traced}
        self.last: dict[str, Tensor] = {}

    def __call__(self, name: str, module: nn.Module, x: Tensor) -> Tensor:
        """Shapes: (T, B, ...) → (T, B, ...)."""
        steps, batch = x.shape[:2]
        pre = None
        if name in self.leaks:
            trace, self.last[name] = traced(x.detach(), self.last.get(name), self.leaks[name])
            pre = trace.flatten(0, 1)
        y = synapse(module, x.flatten(0, 1), pre=pre, back=self.back(name, module))  # T B ... -> (T B) ...
        return y.unflatten(0, (steps, batch))  # (T B) ... -> T B ...


def traced(x: Tensor, last: Tensor | None, leak: float) -> tuple[Tensor, Tensor]:
    """a[t] = leak a[t-1] + x[t] from the trace before, zero where there is none; and the last one.

    Shapes: x (T, B, ...), last (B, ...) → (T, B, ...), (B, ...).
    """
    steps = []
    for now in x:
        last = now if last is None else torch.add(now, last, alpha=leak)
        steps.append(last)
    assert last is not None
    return torch.stack(steps), last


def leak_after(net: Net, name: str) -> float:
    """alpha of the neurons that a layer with weights feeds; of those that feed it, where it feeds none.

    Raises:
        RequestError: it feeds neurons of several leaks.
    """
    plan = net.plan
    found = {leak for one in neurons_after(plan, name) for leak in leaks_of(net.get_submodule(one))}
    if len(found) > 1:
        raise RequestError(
            f"model layer {name}: it feeds neurons of several time constants, so that its input has no one trace; "
            "method=ottt needs one model.neuron.tau_mem"
        )
    if found:
        return found.pop()
    before = [layer.name for layer in plan.layers if layer.kind == "neuron"]
    return leak_of(net.get_submodule(before[-1])) if before else 1.0


def neurons_after(plan: Plan, name: str) -> list[str]:
    """The layers of neurons that read a layer, directly or through what has no weights."""
    found: list[str] = []
    waiting, seen = [name], {name}
    while waiting:
        for k in plan.readers[waiting.pop()]:
            layer = plan.layers[k]
            if layer.kind == "neuron":
                found.append(layer.name)
            elif not plan.kinds[layer.name].weight and layer.name not in seen:
                seen.add(layer.name)
                waiting.append(layer.name)
    return found


def leak_of(layer: Any) -> float:
    """alpha of a layer of neurons, all of which have the same.

    Raises:
        RequestError: they have several.
    """
    found = leaks_of(layer)
    if len(found) > 1:
        raise RequestError(f"{type(layer).__name__}: its channels have several time constants; use one tau_mem")
    return found.pop()


def leaks_of(layer: Any) -> set[float]:
    """alpha of a layer of neurons, several where its channels differ; 1 for integrate-and-fire."""
    return set(layer.alpha_mem_calculated.detach().flatten().tolist())
