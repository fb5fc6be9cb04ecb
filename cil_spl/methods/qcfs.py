"""Quantisation clip-floor-shift: an ANN whose activation is what an integrate-and-fire neuron counts, then converted.

Paper: T. Bu, W. Fang, J. Ding, P. Dai, Z. Yu, T. Huang, "Optimal ANN-SNN Conversion for High-accuracy and
Ultra-low-latency Spiking Neural Networks", ICLR 2022 (arXiv:2303.04347).

An integrate-and-fire neuron that starts at half its threshold rounds its input to a whole number of spikes, where one
that starts at zero cuts it off. An ANN with this activation in the place of its rectifiers learns to live with it:

    ANN:      a = lambda h,   h = clip(floor(u) / L, 0, 1),   u = L z / lambda + 1/2
    gradient  da/dz = 1 where 0 < u < L, else 0               the floor counts as the identity (straight through)
              da/dlambda = h - z / lambda where 0 < u < L, else h
    spiking:  W <- theta W lambda_{l-1} / lambda_l,   b <- theta b / lambda_l,   v[0] = theta / 2

With constant input z theta / lambda for T steps a neuron makes clip(floor(T z / lambda + 1/2), 0, T) spikes, which is
the activation where T = L. Deeper layers get spikes, not a constant current: at T = L about one of eight neurons of a
second layer is a spike off. With more steps the network tends to the ANN without its floor, as 1 / T.

    symbol    name here         meaning
    lambda    full              full activity of a layer of neurons; trained
    L         levels            steps of the activation from 0 to lambda
    T         frames.bins       time steps
    S         spikes            of a fully active neuron: T in the paper
    theta     spike_threshold   of the spiking network, whose weights are scaled so that all layers have the same

The paper's neurons are ``model.neuron.spike_fn=single model.neuron.min_v_mem=null``, its data are images, given at
every step (``frames.encode=repeat``); a linear read-out has no activation. Neurons that may make several spikes at a
time step, as on event recordings, and those of a chip, which knows no steps, are not bound to T. Their activation has
no upper end: h = max(floor(u) / L, 0), slope where u > 0; and lambda is the step of the activation times L. They make
S = 4 L spikes for lambda, as events come unevenly, and more than S beyond it.

With a chip in the loop (``observer=chip``) the last part of the training takes the chip's counts for the activations,
as tandem.py does: a <- lambda c / S; the gradient stays the activation's.

Differences from the paper: lambda starts at a percentile of the activations instead of 8; branches that are added share
one; ``model.neuron.threshold_per=channel`` gives one to each channel. Output neurons, which the paper has not, have the
activation too; the gradient passes them unchanged, as in conversion.py, or one that is never active would learn
nothing. The authors' code clips before it takes the floor, so
that its gradient is 1 half a step of the activation later, where 0 < z < lambda.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from cil_spl.data.batches import Batch
from cil_spl.methods import conversion, tandem
from cil_spl.models import answers
from cil_spl.models.carry import Scale, added, carry_over, events_per_unit, spiking_twin
from cil_spl.models.fold import fold
from cil_spl.models.layers import per_feature
from cil_spl.models.net import Net, weighted
from cil_spl.models.options import Neuron
from cil_spl.models.plan import INPUT, Plan
from cil_spl.tasks import evaluation as ev
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires


def check(cfg: Any) -> list[str]:
    """What a config says of neurons and this method does otherwise."""
    start, half = cfg.model.neuron.v_init, cfg.model.neuron.spike_threshold / 2
    if start in (0.0, half):
        return []
    return [
        f"model.neuron.v_init={start:g}: method=qcfs starts neurons at half their threshold, {half:g}, so it has no "
        "effect"
    ]


REQUIRES = Requires(
    family="cnn",
    observer="optional",
    converts=True,
    neuron={"kind": ("iaf",), "reset_fn": ("subtract",)},
    check=check,
)

LEAST = 0.01  # of what lambda starts at; at 0 or below it an activation says nothing


def train(
    ctx: TrainingContext,
    *,
    lr: Annotated[float, Gt(0)] = 2e-3,
    levels: Annotated[int, Ge(1), Le(2**20)] = 4,
    spikes: Annotated[int, Ge(1), Le(2**20)] | None = None,
    percentile: Annotated[float, Ge(50), Le(100)] = 99.0,
    calibration_batches: Annotated[int, Ge(1), Le(2**20)] = 8,
    plain: Annotated[float, Ge(0), Le(1)] = 0.5,
    count_scale: Annotated[float, Gt(0)] = 1.0,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train an ANN with clip-floor-shift activations and convert it.

    The spiking network starts at half its threshold, whatever ``model.neuron.v_init`` says.

    Args:
        ctx: the run; its ``observer``, where there is one, is a chip in the loop.
        lr: learning rate, also of lambda.
        levels: steps of the activation (L).
        spikes: of a fully active neuron (S); None for the time steps where a neuron makes one spike at each at most
            (``spike_fn=single``), else for four times the ``levels``.
        percentile: of the rectified activations of the fresh ANN, that lambda starts at.
        calibration_batches: batches of training data on which it is taken.
        plain: part of all updates, the first ones, that run without the chip, where one is in the loop.
        count_scale: factor on the outputs before the softmax.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
    """
    data, neuron = ctx.experiences[0], Neuron(**ctx.neuron)
    net = ctx.build("cnn")
    ctx.scale(net, init_rate, bins=1)
    starts = _starts(ctx, net, percentile, calibration_batches)
    single = neuron.spike_fn == "single"
    put_activations(net, starts, levels, bounded=single, by_channel=neuron.threshold_per == "channel")
    spiking = spiking_net(ctx, net)
    S = spikes or (ctx.frames.bins if single else 4 * levels)
    spiking.scaled_by = (
        f"method.spikes={spikes}" if spikes else f"frames.bins={S}" if single else f"method.levels={levels}"
    )
    val = ctx.batches(data.val, train=False, bins=1)

    def score() -> dict[str, float]:
        seen = ev.evaluate(answers.cnn_answer(net, ctx.device), val.epoch(0), ctx.task, data.outputs)
        if ctx.deployed is None:
            return {ctx.task.monitor: seen.metrics[ctx.task.monitor]}
        found = ctx.score(share(net, spiking, S, ctx))
        return found | {f"ann_{ctx.task.monitor}": seen.metrics[ctx.task.monitor]}

    ann_alone = gradient(net, ctx, count_scale=count_scale)
    phases = [(1.0, ann_alone)]
    if ctx.observer is not None:
        phases = [(plain, ann_alone), (1.0, on_chip(net, spiking, S, ctx, count_scale=count_scale))]
    learn(ctx, net, phases, lr=lr, bins=1, score=score)
    notes = {"chosen/spikes": float(S)}
    notes |= {f"chosen/lambda_{name}": float(one.full.detach().max()) for name, one in activations(net).items()}
    return Trained(share(net, spiking, S, ctx), ann=ctx.finish(net), notes=notes)


# --- the activation ---------------------------------------------------------------------------------------------------


class ClipFloor(nn.Module):
    """The activation, with its lambda.

    Args:
        full: lambda, one number or one for each channel, (C,); several activations may share it.
        levels: L.
        bounded: whether the activation ends at lambda.
        straight_through: whether the gradient passes unchanged, and not where the activation has a slope alone.

    Shape:
        (N, C, ...) → the same.
    """

    def __init__(self, full: nn.Parameter, levels: int, bounded: bool = True, straight_through: bool = False) -> None:
        super().__init__()
        self.full, self.levels = full, levels
        self.bounded, self.straight_through = bounded, straight_through
        self.least = LEAST * float(full.detach().min())

    def forward(self, z: Tensor) -> Tensor:
        full = per_feature(self.full, z) if self.full.dim() else self.full
        return clip_floor(z, full, self.levels, self.bounded, self.straight_through)

    @torch.no_grad()
    def keep_positive(self) -> None:
        """Hold lambda at :data:`LEAST` of its start or above, wherever a step has taken it."""
        self.full.clamp_(min=self.least)


def clip_floor(z: Tensor, full: Tensor, levels: int, bounded: bool = True, straight_through: bool = False) -> Tensor:
    """lambda clip(floor(L z / lambda + 1/2) / L, 0, 1) with the gradient of the header; ``full`` is lambda."""
    found: Tensor = _ClipFloor.apply(z, full, levels, bounded, straight_through)
    return found


class _ClipFloor(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, full: Tensor, levels: int, bounded: bool, straight_through: bool) -> Tensor:
        ctx.save_for_backward(z, full)
        ctx.levels, ctx.bounded, ctx.straight_through = levels, bounded, straight_through
        return full * _part(levels * z / full + 0.5, levels, bounded)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        z, full = ctx.saved_tensors
        u = ctx.levels * z / full + 0.5
        inside = (u > 0) & (u < ctx.levels) if ctx.bounded else u > 0
        by_full = (grad * (_part(u, ctx.levels, ctx.bounded) - inside * z / full)).sum_to_size(full.shape)
        return grad if ctx.straight_through else grad * inside, by_full, None, None, None


def _part(u: Tensor, levels: int, bounded: bool) -> Tensor:
    """h: the part of full activity."""
    return (u.floor() / levels).clamp(0, 1 if bounded else None)


def put_activations(
    net: Net, starts: dict[str, float], levels: int, bounded: bool = True, by_channel: bool = False
) -> None:
    """Put a :class:`ClipFloor` in the place of each rectifier, and of spiking output neurons.

    Args:
        starts: of each layer of neurons, what lambda starts at; the largest of those that share one.
        bounded: whether neurons can make no more spikes than for lambda.
        by_channel: whether each channel has its own lambda.
    """
    shapes, output = net.plan.shapes(), net.plan.output
    device = next(net.parameters()).device
    for group in _sharing(net.plan):
        full = torch.tensor(max(starts[name] for name in group), device=device)
        channels = {shapes[name][0] for name in group}
        lambda_ = nn.Parameter(full.repeat(channels.pop()) if by_channel and len(channels) == 1 else full)
        for name in group:
            setattr(net, name, ClipFloor(lambda_, levels, bounded, straight_through=name == output))


def activations(net: Net) -> dict[str, ClipFloor]:
    """The activations of a network, by the names of their layers."""
    return {name: module for name, module in net.named_children() if isinstance(module, ClipFloor)}


def _sharing(plan: Plan) -> list[list[str]]:
    """Layers of neurons with one lambda: the same weights reach them, or weights whose outputs are added somewhere."""
    feeding = added(plan)
    groups: list[tuple[set[str], list[str]]] = []
    for name in (layer.name for layer in plan.layers if layer.kind == "neuron"):
        own = set(plan.weights_before(name)) - {INPUT}
        own |= {other for group in feeding if group & own for other in group - {INPUT}}
        met = [one for one in groups if one[0] & own]
        groups = [one for one in groups if one not in met]
        groups.append((own.union(*(weights for weights, _ in met)), [*(n for _, names in met for n in names), name]))
    return [names for _, names in groups]


def _starts(ctx: TrainingContext, net: Net, percentile: float, n_batches: int) -> dict[str, float]:
    """Of each layer of neurons, the percentile of what the weights before it give, rectified."""
    batches = ctx.calibration(ctx.experiences[0].train, bins=1)
    seen = conversion.activations(net, batches, percentile, n_batches, ctx.device)
    spiking = [layer.name for layer in net.plan.layers if layer.kind == "neuron"]
    return {name: max([seen[w] for w in net.plan.weights_before(name) if w != INPUT], default=1.0) for name in spiking}


# --- gradients --------------------------------------------------------------------------------------------------------


def gradient(net: Net, ctx: TrainingContext, *, count_scale: float = 1.0) -> Gradient:
    """The ANN's gradient of a batch."""

    def of(batch: Batch) -> Iterator[Step]:
        out = net(batch.frames[0].to(ctx.device))  # 1 B C H W -> B C H W
        value = ctx.loss(out, batch, count_scale)
        value.backward()
        yield Step(value.detach(), out.detach())
        keep_positive(net)

    return of


def on_chip(net: Net, spiking: Net, spikes: int, ctx: TrainingContext, *, count_scale: float = 1.0) -> Gradient:
    """The ANN's gradient of a batch, with a chip's counts for its activations where the chip tells them."""

    def of(batch: Batch) -> Iterator[Step]:
        counts = tandem.spike_counts(ctx, share(net, spiking, spikes, ctx), batch)
        events, _ = _events(net, spikes, ctx)
        values = {name: c / _per_unit(net, events, name, c) for name, c in counts.items()}
        out = tandem.coupled(net, batch.frames[0].to(ctx.device), values)  # 1 B C H W -> B C H W
        value = ctx.loss(out, batch, count_scale)
        value.backward()
        yield Step(value.detach(), out.detach())
        keep_positive(net)

    return of


def keep_positive(net: Net) -> None:
    """Hold every lambda above zero, after an update."""
    for one in activations(net).values():
        one.keep_positive()


# --- conversion -------------------------------------------------------------------------------------------------------


def spiking_net(ctx: TrainingContext, net: Net) -> Net:
    """The spiking network of an ANN, without its weights. Where its neurons start stands in its plan."""
    half = Neuron(**ctx.neuron).spike_threshold / 2
    return spiking_twin(net, ctx.neuron, v_init=half, threshold_per="layer").to(ctx.device)


def share(net: Net, spiking: Net, spikes: int, ctx: TrainingContext) -> Net:
    """The spiking network with the ANN's present weights, ``spikes`` of each neuron for its lambda."""
    return carry_over(fold(net), spiking, *_events(net, spikes, ctx), bins=ctx.frames.bins)


def _events(net: Net, spikes: int, ctx: TrainingContext) -> tuple[dict[str, Scale], dict[str, Scale]]:
    full: dict[str, Scale] = dict.fromkeys(weighted(net), 1.0)
    for name, one in activations(net).items():
        value = one.full.detach()
        scale = value if value.dim() else float(value)
        full |= {weights: scale for weights in net.plan.weights_before(name) if weights != INPUT}
    return events_per_unit(net.plan, full, spikes, ctx.shown)


def _per_unit(net: Net, events: dict[str, Scale], name: str, c: Tensor) -> Scale:
    """Spikes of a layer of neurons for a unit of the ANN, for its counts (B, C, ...)."""
    found = events[net.plan.weights_before(name)[0]]
    return per_feature(found.to(c), c) if isinstance(found, Tensor) else found
