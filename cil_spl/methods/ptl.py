"""Progressive tandem learning: an ANN becomes a spiking network layer by layer, and learns at each step what that cost.

Paper: J. Wu, C. Xu, D. Zhou, H. Li, K. C. Tan, "Progressive Tandem Learning for Pattern Recognition
with Deep Spiking Neural Networks", IEEE TPAMI 2021 (arXiv:2007.01204).

A trained ANN is converted in stages, one layer of neurons each. In stage l the layers before it are spiking and frozen;
layer l spikes forward and learns by tandem learning (tandem.py); the layers after it are still those of an ANN, take
spike counts, and learn with it. A stage ends when the validation loss has not improved for T_p epochs; the best
weights are put back, layer l is frozen, and the next one follows:

    V_u     = p-th percentile of the activations of layer l, in the network as far as it is converted
    theta_l = V_u / N_s
    z_l[t]  = W'_l theta_{l-1} s_{l-1}[t] + b'_l / N_s,   s_l = IF(z_l; theta_l),   c_l = sum_t s_l[t]
    a_l     = max(0, norm(W_l x_{l-1} + b_l)),   x_l = theta_l c_l
    a_l <- x_l,   dL/da_l := dL/dx_l
    output:   V = W_L x_{L-1} + b_L, the free aggregate potential (or spiking output neurons, as a chip has them)

    symbol    name here        meaning
    N_s       levels           spikes of a fully active neuron; with single spikes the time steps, ``frames.bins``
    V_u       activation       what counts as full activity of a layer
    p         percentile       99.9 in the authors' code, 99 or 99.9 in the paper
    T_p       patience         epochs without a better validation loss that end a stage
    W', b'    fold             weights and biases with the normalisation in them
    x         values           counts in the ANN's units

With a chip in the loop (``observer=chip``) the counts of the layers converted so far come from the chip. ``bits`` and
``fan_in`` impose a hardware's limits on each layer when its turn comes; ``quantize.aware=true`` rounds by the chip's
rule. The paper's neurons are ``model.neuron.spike_fn=single model.neuron.min_v_mem=null``, its encoding is
``frames.encode=once``.

Differences from the paper: weights stay in the ANN's units, and a spike of layer l stands for theta_l there, so that
nothing has to be absorbed in the learning rate; one learning rate per stage, without decay. From the authors' code,
which differs from the paper: a stage can be judged by the score instead of the loss (``monitor``), and a layer be
frozen as soon as it is converted, the first excepted (``train_converted=false``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batch
from cil_spl.methods import conversion, tandem
from cil_spl.models import answers, carry
from cil_spl.models.carry import Scale, carry_over, events_per_unit
from cil_spl.models.fold import fold
from cil_spl.models.layers import per_feature
from cil_spl.models.net import Net, evaluating, master, walk, weighted
from cil_spl.models.neurons import substitute
from cil_spl.models.parts import Part, feeding, freeze, needed, parts_of, some_of, upto
from cil_spl.tasks import evaluation as ev
from cil_spl.training import frozen_spikes
from cil_spl.training.context import Trained, TrainingContext
from cil_spl.training.epochs import Fitted
from cil_spl.training.frozen_spikes import Kept
from cil_spl.training.learn import Gradient, Step, learn
from cil_spl.training.options import Requires

NEEDS_ANN = "name a trained ANN, such as start_from=RUN/checkpoints/pretrain-best.pt of another run"


def check(cfg: Any) -> list[str]:
    """Refuse stages without an ANN, and a chip that tells the counts of its output alone."""
    if not cfg.method.pretrain and cfg.start_from is None:
        raise RequestError(f"method.pretrain=false: start_from=null; {NEEDS_ANN}")
    if cfg.observer is not None and cfg.observer.get("layers") == "output":
        raise RequestError("observer.layers=output: method=ptl takes the counts of all layers; use observer.layers=all")
    return []


REQUIRES = Requires(family="cnn", observer="optional", converts=True, spikes=True, check=check)


def train(
    ctx: TrainingContext,
    *,
    pretrain: bool = True,
    lr: Annotated[float, Gt(0)] = 2e-3,
    stage_lr: Annotated[float, Gt(0)] = 5e-4,
    stage_epochs: Annotated[int, Ge(0)] = 20,
    patience: Annotated[int, Ge(1)] = 2,
    monitor: Literal["loss", "score"] = "loss",
    levels: Annotated[int, Ge(1), Le(2**20)] | None = None,
    percentile: Annotated[float, Ge(50), Le(100)] = 99.9,
    calibration_batches: Annotated[int, Ge(1), Le(2**20)] = 8,
    train_converted: bool = True,
    augment_stages: bool = True,
    bits: Annotated[int, Ge(2), Le(16)] | None = None,
    fan_in: Annotated[int, Ge(1)] | None = None,
    count_scale: Annotated[float, Gt(0)] = 1.0,
    init_rate: Annotated[float, Gt(0)] = 1.0,
) -> Trained:
    """Train an ANN, then convert it layer by layer.

    Args:
        ctx: the run; its ``observer``, where there is one, is a chip in the loop. ``trainer`` holds for the ANN.
        pretrain: whether the ANN is trained first; else it is that of ``start_from``.
        lr: learning rate of the ANN; stage_lr: of the stages.
        stage_epochs: the most epochs of a stage; 0 converts without any training.
        patience: epochs without a better ``monitor`` that end a stage.
        monitor: by which validation metric a stage is judged: the ``loss``, or the task's ``score``.
        levels: spikes of a fully active neuron over the recording; None for :func:`levels_of`.
        percentile: of the activations, that becomes full activity.
        calibration_batches: batches of training data on which it is taken.
        train_converted: whether the layer of a stage learns, and not the ones after it alone.
        augment_stages: whether the stages see augmented data too. Without, the spikes of frozen layers are made once
            per stage and kept, where neurons spike once per step.
        bits: of the spiking layers' weights and biases; None for floats.
        fan_in: the most inputs of a neuron that are kept, the largest weights; None for all.
        count_scale: factor on the outputs before the softmax.
        init_rate: see :func:`cil_spl.models.init.scale_to_rate`.
    """
    net = ctx.build("cnn")
    ctx.scale(net, init_rate, bins=1)
    epochs = train_ann(ctx, net, lr, count_scale) if pretrain else 0
    ann = ctx.finish(copy.deepcopy(net))
    ctx = ctx if augment_stages else replace(ctx, augment=None)
    levels = levels or levels_of(ctx)
    hybrid = Hybrid(ctx, net, levels=levels, percentile=percentile, n_batches=calibration_batches, bits=bits)
    trainer = replace(ctx.trainer, epochs=max(1, stage_epochs), patience=patience, schedule="constant", warmup_steps=0)
    for k, stage in enumerate(hybrid.stages):
        hybrid.convert(k, fan_in)
        if k and not train_converted and stage.spikes:
            freeze(net, stage)
        if stage_epochs and any(p.requires_grad for p in net.parameters()):
            at = replace(ctx, trainer=trainer, log=_with_stage(ctx, k + 1))
            hybrid.keep_spikes()
            epochs += _train_stage(at, hybrid, stage_lr, count_scale, monitor, epochs).epochs
        hybrid.finish(stage)
    notes = {f"chosen/threshold_{name}": value for name, value in hybrid.thresholds().items()}
    return Trained(hybrid.spiking, ann=ann, notes={"train/passes": float(epochs), **notes})


def _train_stage(
    ctx: TrainingContext, hybrid: Hybrid, lr: float, count_scale: float, monitor: str, first_epoch: int
) -> Fitted:
    by_loss = monitor == "loss"
    return learn(
        ctx,
        hybrid.net,
        hybrid.gradient(count_scale),
        lr=lr,
        transform=hybrid.keep_pruned,
        keep={"hybrid": hybrid},
        score=lambda: hybrid.score(count_scale),
        monitor="loss" if by_loss else ctx.task.monitor,
        better="less" if by_loss else ctx.task.better,
        stage=f"stage{hybrid.at + 1:02d}",
        first_epoch=first_epoch,
    )


def levels_of(ctx: TrainingContext) -> int:
    """Spikes of a fully active neuron: one per time step, as the paper has it, or four where there may be several."""
    return ctx.frames.bins * (1 if ctx.neuron.get("spike_fn") == "single" else 4)


def train_ann(ctx: TrainingContext, net: Net, lr: float, count_scale: float) -> int:
    """Train the ANN, on one frame per recording or the sample itself; its epochs."""
    data = ctx.experiences[0]
    val = ctx.batches(data.val, train=False, bins=1)

    def score() -> dict[str, float]:
        seen = ev.evaluate(answers.cnn_answer(net, ctx.device), val.epoch(0), ctx.task, data.outputs)
        return {ctx.task.monitor: seen.metrics[ctx.task.monitor]}

    fitted = learn(
        replace(ctx, log=_with_stage(ctx, 0)),
        net,
        conversion.gradient(net, ctx, count_scale=count_scale),
        lr=lr,
        bins=1,
        score=score,
        monitor=ctx.task.monitor,
        stage="pretrain",
    )
    return fitted.epochs


def _with_stage(ctx: TrainingContext, k: int) -> Callable[[dict[str, float], int], None]:
    """The run's log, with the number of the stage in it: 0 is the ANN's training."""
    return lambda metrics, epoch: ctx.log(metrics | {"train/stage": float(k)}, epoch)


class Hybrid:
    """A network whose first stages are spiking.

    Args:
        ctx: the run.
        net: the ANN, whose weights are those of both.
        levels, percentile, n_batches, bits: see :func:`train`.

    Attributes:
        spiking: the spiking network; of stages that are not converted yet it has what the ANN's weights come to.
        activation: full activity of the neurons that each weight layer feeds.
        at: number of the stage; the neurons of those before it, and its own, spike.
    """

    def __init__(
        self, ctx: TrainingContext, net: Net, *, levels: int, percentile: float, n_batches: int, bits: int | None
    ) -> None:
        self.ctx, self.net, self.levels, self.percentile, self.n_batches = ctx, net, levels, percentile, n_batches
        self.by_channel = ctx.neuron.get("threshold_per") == "channel"
        one = {"threshold_per": "layer"} if self.by_channel else {}  # those of channels stand in the weights
        self.spiking = carry.spiking_twin(net, ctx.neuron, **one).to(ctx.device)
        self.spiking.scaled_by = f"method.levels={levels}"
        self.stages = parts_of(net.plan)
        self.weights_of = {stage.end: feeding(net.plan, stage) for stage in self.stages}
        self.quantize = carry.as_is if bits is None else carry.to_bits(bits)
        self.activation = dict.fromkeys(weighted(net), torch.tensor(1.0, dtype=torch.float64))
        self.at = 0
        self.masks: dict[int, Tensor] = {}
        self.given: tuple[str, ...] = ()  # neurons of earlier stages, whose counts the ANN takes
        self.computed: set[str] = set()  # layers that the ANN computes: what these do not replace
        self.kept: Kept | None = None  # spikes that enter the stage
        self.before: Kept | None = None  # ... and those of the stage before, which they are made of

    @torch.no_grad()
    def convert(self, k: int, fan_in: int | None = None) -> None:
        """Begin stage ``k``: find the thresholds of the layers that are not frozen, and let its neurons spike."""
        self.at = k
        self.before, self.kept = self.kept, None
        self.computed, self.given = needed(self.net.plan, {stage.end for stage in self.stages[:k]})
        if fan_in is not None:
            for name in self.weights_of[self.stages[k].end]:
                weight = master(self.net.get_submodule(name))
                self.masks[id(weight)] = carry.largest(weight.detach(), fan_in)
                weight.mul_(self.masks[id(weight)])
        self.activation |= self._measured()
        for name in self.weights_of[self.stages[k].end]:  # of branches that are added, the most active one decides
            self.activation[name] = torch.as_tensor(self.levels / self._events()[0][name], dtype=torch.float64)
        self._carry(self.stages[k:])

    def finish(self, stage: Part) -> None:
        """Take over what a stage has come to: from here on the spiking network alone computes it."""
        self._carry([stage])
        freeze(self.net, stage)
        self.masks.clear()

    def keep_spikes(self) -> None:
        """Make the spikes that enter the stage once, where nothing changes them from epoch to epoch."""
        before, self.before = self.before, None
        if len(self.given) == 1 and self.ctx.observer is None and self.ctx.augment is None:
            self.kept = frozen_spikes.keep(self.ctx, self.spiking, self.given[0], self.stages[self.at], before)

    def keep_pruned(self, params: list[nn.Parameter]) -> None:
        """Leave weights that were cut where they are, at zero."""
        for p in params:
            if id(p) in self.masks and p.grad is not None:
                p.grad.mul_(self.masks[id(p)])

    def thresholds(self) -> dict[str, float]:
        """The threshold of each layer of neurons in the ANN's units; of several channels the largest."""
        return {one.end: float((1 / self._spikes_per_unit(one.end)).max()) for one in self.stages if one.spikes}

    def state_dict(self) -> dict[str, Any]:
        """What it knows besides the weights."""
        return {"activation": dict(self.activation)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put :meth:`state_dict` back."""
        self.activation = dict(state["activation"])

    def gradient(self, count_scale: float) -> Gradient:
        """The gradient of the layers that are not frozen, at the spike counts of those that are converted."""
        present = self.stages[self.at]

        def of(batch: Batch) -> Iterator[Step]:
            self._carry(self.stages[self.at :] if self.ctx.observer is not None else [present])
            out = self(batch, train=True)
            loss = self.ctx.loss(out, batch, count_scale)
            loss.backward()
            yield Step(loss.detach(), out.detach())

        return of

    def __call__(self, batch: Batch, train: bool = False) -> Tensor:
        """Outputs of a batch of the training or the validation set, spiking as far as it is converted. (B, K)."""
        spikes = None if self.kept is None else self.kept.take(batch, train)
        return self._walk(batch, self._values(batch, (*self.given, self.stages[self.at].end), spikes))[0]

    def score(self, count_scale: float) -> dict[str, float]:
        """Validation metrics, the loss among them; once all is converted, those of the spiking network too."""
        ctx, data, total = self.ctx, self.ctx.experiences[0], 0.0
        self._carry(self.stages[self.at :])

        @torch.no_grad()
        def answer(batch: Batch) -> ev.Activity:
            nonlocal total
            with evaluating(self.net):
                out = self(batch)
            total += float(ctx.loss(out, batch, count_scale)) * int(batch.mask.sum())
            return ev.Activity(out.double().cpu().numpy()[:, None], events={}, synops={})

        seen = ev.evaluate(answer, ctx.batches(data.val, train=False).epoch(0), ctx.task, data.outputs)
        found = {"loss": total / len(data.val), ctx.task.monitor: seen.metrics[ctx.task.monitor]}
        return found | (ctx.score(self.spiking) if self.at == len(self.stages) - 1 else {})

    def _values(self, batch: Batch, names: tuple[str, ...], spikes: Tensor | None = None) -> dict[str, Tensor]:
        """What layers of neurons have answered, in the ANN's units; what the spiking network has come to, too.

        ``spikes`` are those of the layer before the stage, where they are known. Shape (T, B, ...).
        """
        plan = self.net.plan
        if not names:
            return {}
        net = self.spiking
        if spikes is not None and self.kept is not None:
            net, batch = self.kept.rest, replace(batch, frames=spikes)
        elif self.ctx.observer is None and names[-1] != plan.output:  # what comes after them need not run
            net = upto(net, max(names, key=[layer.name for layer in plan.layers].index))
        spiking = [name for name in names if plan.named(name).kind == "neuron"]
        counts = tandem.spike_counts(self.ctx, net, batch, [name for name in spiking if name in net.plan.kinds])
        if spikes is not None:
            counts[self.given[0]] = spikes.sum(0)  # T B ... -> B ...
        values = {}
        for name in names:
            c, per_unit = counts[name], self._spikes_per_unit(name).to(counts[name])
            value = c / (per_feature(per_unit, c) if per_unit.dim() else per_unit)
            values[name] = value.contiguous(memory_format=torch.channels_last) if value.dim() == 4 else value
        return values

    def _walk(
        self, batch: Batch, values: Mapping[str, Tensor], record: tuple[str, ...] = ()
    ) -> tuple[Tensor, dict[str, Tensor | None]]:
        """The ANN with what spiking layers answered in the place of its own; what they make unneeded is left out."""

        def layer(name: str, module: nn.Module, inputs: tuple[Tensor | None, ...]) -> Tensor | None:
            if name not in self.computed:
                return values.get(name)
            y: Tensor = module(*inputs)
            return substitute(y, values[name]) if name in values else y

        x: Tensor | None = batch.frames.sum(0).to(self.ctx.device) / self.ctx.shown  # T B C H W -> B C H W
        out, found = walk(self.net, x, layer, record)
        assert out is not None
        return out, found

    @torch.no_grad()
    def _measured(self) -> dict[str, Tensor]:
        """Full activity of the layers that are not frozen, in the network as far as it is converted.

        A layer that is added to a frozen one has that one's, as their spikes stand for the same.
        """
        waiting = [stage for stage in self.stages[self.at :] if stage.spikes]
        if not waiting:
            return {}
        seen: dict[str, list[np.ndarray]] = {stage.end: [] for stage in waiting}
        with evaluating(self.net):
            batches = self.ctx.calibration(self.ctx.experiences[0].train).epoch(0)
            for batch in islice(batches, self.n_batches):
                _, found = self._walk(batch, self._values(batch, self.given), tuple(seen))
                for name, parts in seen.items():
                    value = found[name]
                    assert value is not None
                    parts.append(value.relu().cpu().numpy())  # a spiking output is not rectified in the ANN
        measured: dict[str, Tensor] = {}
        groups = carry.added(self.net.plan)
        frozen = {name for stage in self.stages[: self.at] for name in self.weights_of[stage.end]}
        for stage in waiting:
            full = torch.as_tensor(self._full(stage.end, np.concatenate(seen[stage.end])), dtype=torch.float64)
            for name in self.weights_of[stage.end]:
                kept = sorted(other for group in groups if name in group for other in group & frozen)
                measured[name] = self.activation[kept[0]] if kept else full
        return measured

    def _full(self, name: str, values: np.ndarray) -> Scale:
        """Full activity of a layer from its activations, and a word to the user where they say nothing. (B, C, ...)."""
        full = carry.full_activity(values, self.percentile, self.by_channel)
        if full is not None:
            return full
        active = carry.full_activity(values[values > 0], self.percentile)
        self.ctx.warn(
            f"layer {name}: percentile {self.percentile:g} of its activations is zero; "
            + ("that of those above zero is taken" if active else "none is above zero, so its threshold is arbitrary")
            + ". A higher method.percentile, or more method.calibration_batches, may see them"
        )
        return active or 1.0

    def _events(self) -> tuple[dict[str, Scale], dict[str, Scale]]:
        return events_per_unit(self.net.plan, self.activation, self.levels, self.ctx.shown)

    def _spikes_per_unit(self, end: str) -> Tensor:
        """Of a layer of neurons, in float64; one number, or one for each channel, (C,)."""
        return torch.as_tensor(self._events()[0][self.weights_of[end][0]], dtype=torch.float64)

    def _carry(self, stages: list[Part]) -> None:
        """Give the spiking network the present weights of some stages."""
        part = some_of(self.net, {name for stage in stages for name in stage.layers})
        events, into = self._events()
        carry_over(fold(part), self.spiking, events, into, self.ctx.frames.bins, self.quantize)
