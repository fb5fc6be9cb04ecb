"""Networks as an evaluation sees them: functions that answer a batch with what their neurons did."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil_spl.data.batches import Batch
from cil_spl.models import neurons
from cil_spl.models.fold import norm_as_factor
from cil_spl.models.forward import forward
from cil_spl.models.kinds import POOLS, WEIGHTED, Shape, pair
from cil_spl.models.net import Net, evaluating, spiking_layers, walk
from cil_spl.models.plan import INPUT, Layer, Plan
from cil_spl.models.stages import followers
from cil_spl.tasks.evaluation import Activity, Answer, decision_times


def stepped_answer(net: Net, device: torch.device | None = None) -> Answer:
    """Answers of a time-stepped spiking network.

    What multiplies other values than events (samples, or what no neurons follow) does multiply-accumulates (``macs``),
    at each time step; once for all of them where its input is a sample's, which is the same at each.
    """
    device = device or torch.device("cpu")
    net = net.to(device)
    names = list(spiking_layers(net))
    plan = net.plan
    owner, dense = owners(plan), macs_of(plan)
    reach = {name: there.to(device) for name, there in reaches(plan).items()}

    @torch.no_grad()
    def answer(batch: Batch) -> Activity:
        frames = batch.frames.to(device)
        with evaluating(net):
            if plan.delays:
                out, _, spikes = forward(net, frames, record=names)
                shown = frames
            else:  # what reaches a layer is a sum, whatever the order of its steps
                out, _, sums = forward(net, frames, ends=False, total=names)
                spikes = {name: one[None] for name, one in sums.items()}  # B ... -> 1 B ...
                shown = frames.sum(0, keepdim=True)
        events = {owner[name]: _numpy(spikes[name].flatten(2).sum(dim=(0, 2))) for name in names}
        reached = traffic(net, None if batch.edges_us is None else shown, spikes)
        synops = {
            # A pixel's events, all features and steps together, each reach so many neurons.
            name: _numpy((into.sum(dim=(0, 2)) * reach[name]).sum(dim=(1, 2)))  # T B C H W -> B H W -> B
            for name, into in reached.items()
        }
        changing = varying(plan, batch.edges_us is not None)
        macs = {
            name: np.full(len(batch), value * (len(frames) if name in changing else 1))
            for name, value in dense.items()
            if name not in reached
        }
        counts = _numpy(out.transpose(0, 1))  # T B K -> B T K
        decided = None if batch.edges_us is None else decision_times(counts, batch.edges_us)
        return Activity(counts, events, synops, decided, macs=macs)

    return answer


def cnn_answer(net: Net, device: torch.device | None = None) -> Answer:
    """Answers of a CNN on one frame per recording, with its multiply-accumulates."""
    device = device or torch.device("cpu")
    net = net.to(device)
    dense = macs_of(net.plan)

    @torch.no_grad()
    def answer(batch: Batch) -> Activity:
        with evaluating(net):
            out = net(batch.frames.sum(dim=0).to(device))  # T B C H W -> B C H W
        size = len(batch.target)
        done = {name: np.full(size, value) for name, value in dense.items()}
        return Activity(_numpy(out)[:, None], events={}, synops={}, macs=done)

    return answer


def owners(plan: Plan) -> dict[str, str]:
    """By which name the events of each neuron layer are reported: that of the weights in front, where it is one."""
    found: dict[str, str] = {}
    for i, layer in enumerate(plan.layers):
        if layer.kind != "neuron":
            continue
        (name,) = plan.inputs(i)
        while name != INPUT and plan.named(name).kind in ("norm", "bias"):
            (name,) = plan.inputs_of(name)
        weights = name != INPUT and plan.kinds[name].weight
        found[layer.name] = name if weights and name not in found.values() else layer.name
    return found


def macs_of(plan: Plan) -> dict[str, float]:
    """Multiply-accumulates of each layer with weights for one pass over its whole input."""
    shapes = plan.shapes()
    return {
        name: float(there.sum()) * map_in_front(plan, shapes, plan.inputs_of(name)[0])[0]
        for name, there in reaches(plan).items()
    }


def varying(plan: Plan, events: bool) -> set[str]:
    """The layers whose input differs from one time step to the next: ``events`` differ, samples do not."""
    found = {INPUT} if events else set()
    inputs: set[str] = set()
    for i, layer in enumerate(plan.layers):
        if any(name in found for name in plan.inputs(i)):
            inputs.add(layer.name)
        if layer.name in inputs or plan.kinds[layer.name].over != "steps":
            found.add(layer.name)
    return inputs


def traffic(net: Net, frames: Tensor | None, spikes: dict[str, Tensor]) -> dict[str, Tensor]:
    """The events that reach each layer with weights, pooled as a chip would: summed.

    Args:
        frames: events into the network; None where it gets other values.
        spikes: of each layer of neurons.

    Returns:
        by layer, (T, B, C, H, W); nothing of a layer that other values reach too.
    """
    found: dict[str, Tensor] = {}
    kinds = {layer.name: layer for layer in net.plan.layers}

    def layer(name: str, module: nn.Module, inputs: tuple[Tensor | None, ...]) -> Tensor | None:
        if name in spikes:
            return spikes[name]
        kind, x = kinds[name].kind, inputs[0]
        if x is None or any(one is None for one in inputs):
            return None
        if kind in POOLS:
            return _pooled(x, pair(kinds[name].params["kernel_size"]))
        if kind == "add":
            return sum((one for one in inputs[1:] if one is not None), start=x)
        if kind == "flatten":
            return x  # it keeps its map
        if kind in WEIGHTED:
            found[name] = x if x.dim() == 5 else x[..., None, None]
        return None

    delays = net.plan.delays
    delayed: dict[str, Tensor | None] = dict.fromkeys(delays)
    for _ in range(1 + len(delays)):  # a delay reads what comes after it
        found.clear()
        _, seen = walk(net, frames, layer, delays.values(), delayed)
        delayed = {name: _delayed(frames if source == INPUT else seen[source]) for name, source in delays.items()}
    return found


def _delayed(x: Tensor | None) -> Tensor | None:
    return None if x is None else torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def reaches(plan: Plan) -> dict[str, Tensor]:
    """How many neurons an event at each input pixel of a weight layer reaches, all features. By layer, (H, W)."""
    shapes = plan.shapes()
    return {
        layer.name: fan_out(layer, map_in_front(plan, shapes, plan.inputs(i)[0]), shapes[layer.name])
        for i, layer in enumerate(plan.layers)
        if layer.kind in WEIGHTED
    }


def map_in_front(plan: Plan, shapes: dict[str, Shape], name: str) -> tuple[int, int, int]:
    """The (C, H, W) that a layer reads, before it was flattened; a vector is a map of 1 x 1."""
    while name != INPUT and len(shapes[name]) == 1:
        layer = plan.named(name)
        if layer.kind not in ("flatten", "add", "delay"):
            break
        name = plan.inputs_of(name)[0]
    shape = shapes[name]
    return (shape[0], 1, 1) if len(shape) == 1 else (shape[0], shape[1], shape[2])


def answer_of(net: Net, device: torch.device | None = None) -> Answer:
    """Answers of any network: in time steps where it spikes or has states, else on one frame per recording."""
    return (stepped_answer if runs_in_steps(net) else cnn_answer)(net, device)


def bins_of(net: Net) -> int | None:
    """Time steps that a network takes: one where nothing spikes and no state is kept, otherwise the run's, None."""
    return None if runs_in_steps(net) else 1


def runs_in_steps(net: Net) -> bool:
    """Whether a network knows time: it has spiking neurons, or another layer that keeps a state."""
    stateful = any(kind.over in ("time", "delay") for kind in net.plan.kinds.values())
    return stateful or any(neurons.is_spiking(module) for module in net.modules())


def n_weights(net: Net) -> int:
    """Weights of convolutions and linear layers."""
    return sum(m.weight.numel() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def fan_out(layer: Layer, source: tuple[int, int, int], out: Shape) -> Tensor:
    """How many neurons an event at each input pixel reaches, all features together. Shape (H, W)."""
    _, height, width = source
    if layer.kind == "linear":
        return torch.full((height, width), float(out[0]))
    p = layer.params
    kernel, stride, padding = pair(p["kernel_size"]), pair(p.get("stride", 1)), pair(p.get("padding", 0))
    ones = torch.ones(1, 1, *out[1:])
    padded = torch.zeros(height + 2 * padding[0], width + 2 * padding[1])
    reach = F.conv_transpose2d(ones, torch.ones(1, 1, *kernel), stride=stride)[0, 0]
    padded[: reach.shape[0], : reach.shape[1]] = reach
    return padded[padding[0] : padding[0] + height, padding[1] : padding[1] + width] * out[0]


def _pooled(spikes: Tensor, pool: tuple[int, int]) -> Tensor:
    if pool == (1, 1):
        return spikes
    steps, batch = spikes.shape[:2]
    summed = F.avg_pool2d(spikes.flatten(0, 1), pool, divisor_override=1)  # T B C H W -> (T B) C H W
    return summed.unflatten(0, (steps, batch))


def _numpy(x: Tensor) -> np.ndarray:
    return x.double().cpu().numpy()


def heavy_weights(net: Net) -> list[str]:
    """Layers with weights above threshold: on the chip such neurons lag behind and keep firing."""
    found, plan = [], net.plan
    for i, layer in enumerate(plan.layers):
        if layer.kind not in WEIGHTED:
            continue
        weighted: Any = net.get_submodule(layer.name)
        largest = weighted.weight.detach().flatten(1).amax(1) / averaged(plan, plan.inputs(i)[0])  # F ... -> F
        last = layer.name
        for last in followers(plan, layer.name):
            if plan.named(last).kind == "norm":
                largest = largest * norm_as_factor(net.get_submodule(last))[0].detach()
        readers: list[Any] = [net.get_submodule(plan.layers[k].name) for k in plan.readers[last]]
        if any(
            neurons.is_spiking(neuron) and bool((largest > neuron.spike_threshold.detach().flatten()).any())
            for neuron in readers
        ):
            found.append(layer.name)
    return found


def averaged(plan: Plan, name: str) -> int:
    """The area of the average pooling between a layer and the neurons before it; the smallest of branches."""
    if name == INPUT or plan.named(name).kind not in ("flatten", "add", *POOLS):
        return 1
    layer = plan.named(name)
    area = 1
    if layer.kind == "avgpool":
        y, x = pair(layer.params["kernel_size"])
        area = y * x
    return area * min(averaged(plan, source) for source in plan.inputs_of(name))
