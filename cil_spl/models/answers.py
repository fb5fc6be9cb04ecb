"""Networks as an evaluation sees them: functions that answer a batch with what their neurons did."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil_spl.data.batches import Batch
from cil_spl.models import neurons
from cil_spl.models.forward import forward
from cil_spl.models.plan import Plan, Stage, pair, stages
from cil_spl.tasks.evaluation import Activity, Answer, decision_times


def stepped_answer(net: nn.Sequential, plan: Plan, device: torch.device | None = None) -> Answer:
    """Answers of a time-stepped spiking network.

    Of samples the first layer's additions are multiply-accumulates (``macs``), once for all time steps, since the
    values are the same at each.
    """
    device = device or torch.device("cpu")
    net = net.to(device)
    parts = stages(plan)
    maps = [fan_out(stage).to(device) for stage in parts]
    names = [stage.neuron for stage in parts]
    macs = float(maps[0].sum()) * parts[0].input_shape[0]

    @torch.no_grad()
    def answer(batch: Batch) -> Activity:
        frames = batch.frames.to(device)
        out, _, spikes = forward(net, frames, record=names)
        synops, events = {}, {}
        into = frames
        for stage, reach in zip(parts, maps, strict=True):
            # A pixel's events, all features and steps together, each reach `reach` neurons.
            synops[stage.weight.name] = _numpy(
                (into.sum(dim=(0, 2)) * reach).sum(dim=(1, 2))
            )  # T B C H W -> B H W -> B
            s = spikes[stage.neuron]
            events[stage.weight.name] = _numpy(s.flatten(2).sum(dim=(0, 2)))
            into = _pooled(s if s.dim() == 5 else s[..., None, None], stage.pool)
        counts = _numpy(out.transpose(0, 1))  # T B K -> B T K
        if batch.edges_us is None:  # samples: no time, and values into the first layer in place of events
            del synops[parts[0].weight.name]
            return Activity(counts, events, synops, extra={"macs": np.full(len(batch), macs)})
        return Activity(counts, events, synops, decision_times(counts, batch.edges_us))

    return answer


def cnn_answer(net: nn.Sequential, plan: Plan, device: torch.device | None = None) -> Answer:
    """Answers of a CNN on one frame per recording; its synaptic operations are multiply-accumulates, zeros included."""
    device = device or torch.device("cpu")
    net = net.to(device)
    macs = {stage.weight.name: float(fan_out(stage).sum()) * stage.input_shape[0] for stage in stages(plan)}

    @torch.no_grad()
    def answer(batch: Batch) -> Activity:
        out = net(batch.frames.sum(dim=0).to(device))  # T B C H W -> B C H W
        size = len(batch.target)
        return Activity(_numpy(out)[:, None], {}, {name: np.full(size, value) for name, value in macs.items()})

    return answer


def fan_out(stage: Stage) -> Tensor:
    """How many neurons an event at each input pixel reaches, all features together. Shape (H, W)."""
    _, height, width = stage.input_shape
    f = stage.output_shape[0]
    if stage.weight.kind == "linear":
        return torch.full((height, width), float(f))
    p = stage.weight.params
    kernel, stride, padding = pair(p["kernel_size"]), pair(p["stride"]), pair(p["padding"])
    ones = torch.ones(1, 1, *stage.output_shape[1:])
    padded = torch.zeros(height + 2 * padding[0], width + 2 * padding[1])
    reach = F.conv_transpose2d(ones, torch.ones(1, 1, *kernel), stride=stride)[0, 0]
    padded[: reach.shape[0], : reach.shape[1]] = reach
    return padded[padding[0] : padding[0] + height, padding[1] : padding[1] + width] * f


def _pooled(spikes: Tensor, pool: tuple[int, int]) -> Tensor:
    if pool == (1, 1):
        return spikes
    steps, batch = spikes.shape[:2]
    summed = F.avg_pool2d(spikes.flatten(0, 1), pool, divisor_override=1)  # T B C H W -> (T B) C H W
    return summed.unflatten(0, (steps, batch))


def _numpy(x: Tensor) -> np.ndarray:
    return x.double().cpu().numpy()


def heavy_weights(net: nn.Sequential, plan: Plan) -> list[str]:
    """Layers with weights above threshold: on the chip such neurons lag behind and keep firing."""
    found = []
    for stage in stages(plan):
        neuron: Any = net.get_submodule(stage.neuron)
        weighted: Any = net.get_submodule(stage.weight.name)
        if not neurons.is_spiking(neuron):
            continue
        if bool((weighted.weight.detach() / stage.fold > neuron.spike_threshold).any()):
            found.append(stage.weight.name)
    return found
