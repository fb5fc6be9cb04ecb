"""Train a CNN on accumulated frames, then run it with integrate-and-fire neurons.

Paper: P. U. Diehl et al., "Fast-classifying, high-accuracy spiking deep networks through weight and threshold
balancing", IJCNN 2015; percentile instead of maximum: B. Rueckauer et al., Frontiers in Neuroscience 11:682, 2017.

The firing rate of an integrate-and-fire neuron is a sampled rectifier, so weights carry over when each layer is scaled
such that its activations fit the rates that a neuron can reach:

    lambda_l = p-th percentile of the rectified outputs of layer l on training data
    W_l <- W_l lambda_{l-1} / lambda_l,   lambda_0 = 1 / gain

    symbol     name here       meaning
    lambda_l   activation      what counts as full activity of layer l, one number per layer
    p          percentile      99 by default: outliers may saturate
    gain       gains           how many events per recording a fully active neuron makes; chosen on validation data

The frame sums a whole recording, so that a CNN's activation corresponds to a count, and the gain says how many events
"fully active" is. With a small gain rounding costs, with a large one the order of events and saturation: the best is
chosen on validation recordings, on the deployment target where it runs spikes.

Differences from the papers: the loss sees the CNN's output, where neurons will give it, rectified, as spikes are, but
its gradient passes unchanged, since a rectified output that is never positive would get none; the gain is chosen, and
with it the epoch, by the score of the converted network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, MinLen
from torch import Tensor, nn

from cil_spl.data.batches import Batch, Batches
from cil_spl.models import answers
from cil_spl.models.build import build
from cil_spl.models.carry import Scale, carry_over, events_per_unit
from cil_spl.models.fold import fold
from cil_spl.models.net import Net, evaluating, walk, weighted
from cil_spl.models.neurons import substitute
from cil_spl.tasks import evaluation as ev
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires

REQUIRES = Requires(family="cnn", observer=False, converts=True)


def train(
    ctx: TrainingContext,
    *,
    lr: Annotated[float, Gt(0)] = 2e-3,
    percentile: Annotated[float, Ge(50), Le(100)] = 99.0,
    gains: Annotated[Sequence[Annotated[float, Gt(0), Le(2**20)]], MinLen(1)] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0),
    normalize_batches: Annotated[int, Ge(1), Le(2**20)] = 8,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train a CNN and convert it.

    Args:
        ctx: the run.
        lr: learning rate.
        percentile: of the activations, that becomes full activity.
        gains: events per recording of a fully active neuron, to choose from.
        normalize_batches: batches of training recordings on which the percentiles are taken.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
    """
    (data,) = ctx.experiences
    net = ctx.build("cnn")
    ctx.scale(net, init_rate, bins=1)
    val = ctx.batches(data.val, train=False, bins=1)

    def score() -> dict[str, float]:
        seen = ev.evaluate(answers.cnn_answer(net, ctx.device), val.epoch(0), ctx.task, data.outputs)
        ctx.watch(net, seen)
        found = {ctx.task.monitor: seen.metrics[ctx.task.monitor]}
        if ctx.deployed is not None:  # the best CNN is not always the one that converts best
            _, notes = converted()
            found[ctx.monitor] = ctx.task.best([value for name, value in notes.items() if name.startswith("val/")])
        return found

    def converted() -> tuple[Net, dict[str, float]]:
        activation = activations(net, ctx.calibration(data.train, bins=1), percentile, normalize_batches, ctx.device)
        return choose_gain(ctx, net, activation, gains)

    learn(ctx, net, gradient(net, ctx), lr=lr, bins=1, score=score)
    ann = ctx.finish(net)
    spiking, notes = converted()
    return Trained(spiking, ann=ann, notes=notes)


def gradient(net: Net, ctx: TrainingContext, *, count_scale: float = 1.0) -> Gradient:
    """The CNN's gradient of a batch; an output that will spike is rectified in the loss, which takes the output times
    ``count_scale``."""
    spikes = net.plan.named(net.plan.output).kind == "neuron"

    def of(batch: Batch) -> Iterator[Step]:
        free = net(batch.frames[0].to(ctx.device))  # 1 B C H W -> B C H W
        out = substitute(free, free.detach().relu()) if spikes else free
        value = ctx.loss(out, batch, count_scale)
        value.backward()
        yield Step(value.detach(), out.detach())

    return of


@torch.no_grad()
def activations(
    net: Net, batches: Batches, percentile: float, n_batches: int, device: torch.device
) -> dict[str, float]:
    """The given percentile of each weight layer's rectified outputs, zeros left out, over some batches.

    Zeros are left out because most of an event camera's map is empty, and a percentile over emptiness is zero.
    """
    seen: dict[str, list[Tensor]] = {}
    net = fold(net)
    layers = weighted(net)

    def layer(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        x: Tensor = module(*inputs)
        if name in layers:
            positive = x[x > 0]
            # A quantile of all values would hold them all at once; a thousand per batch say as much.
            every = max(1, positive.numel() // 100_000)
            seen.setdefault(name, []).append(positive[::every].cpu())
        return x

    with evaluating(net):
        for i, batch in enumerate(batches.epoch(0)):
            if i == n_batches:
                break
            walk(net, batch.frames[0].to(device), layer)  # 1 B C H W -> B C H W
    found = {}
    for name, parts in seen.items():
        values = torch.cat(parts).sort().values
        at = min(len(values) - 1, round(percentile / 100 * (len(values) - 1))) if len(values) else -1
        found[name] = float(values[at]) if len(values) else 1.0
    return found


@torch.no_grad()
def convert(ctx: TrainingContext, ann: Net, activation: Mapping[str, Scale], gain: float) -> Net:
    """The spiking network whose fully active neurons make ``gain`` events per recording.

    Args:
        ctx: the run.
        ann: the CNN.
        activation: what counts as full activity of each weight layer, one number, or one for each channel, (C,).
        gain: events of a fully active neuron.
    """
    ann = fold(ann)
    net = build(ann.plan, family="snn", neuron=ctx.neuron).to(ctx.device)
    net.scaled_by = f"method.gains=[{gain:g}]"
    return carry_over(ann, net, *events_per_unit(ann.plan, activation, gain, ctx.shown), bins=ctx.frames.bins)


def choose_gain(
    ctx: TrainingContext, ann: Net, activation: dict[str, float], gains: Sequence[float]
) -> tuple[Net, dict[str, float]]:
    """The conversion with the best validation score, on the target where it runs spikes, else in time steps."""
    val, allowed = ctx.batches(ctx.experiences[0].val, train=False), ctx.experiences[0].outputs
    best: tuple[float, float, Net] | None = None
    notes: dict[str, float] = {}
    for gain in gains:
        net = convert(ctx, ann, activation, gain)
        if ctx.deployed is not None:
            score = ctx.deployed(net, val, allowed)
        else:
            answer = answers.stepped_answer(net, ctx.device)
            score = ev.evaluate(answer, val.epoch(0), ctx.task, allowed).metrics[ctx.task.monitor]
        notes[f"val/gain_{gain:g}"] = score
        if best is None or ctx.task.is_better(score, best[0]):
            best = (score, gain, net)
    assert best is not None  # there is a gain
    notes["chosen/gain"] = best[1]
    return best[2], notes
