"""What the pipeline hands to every method: plain values and a few functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from cil_spl.base import ranks
from cil_spl.base.errors import RequestError
from cil_spl.base.process import device_of
from cil_spl.chip.quantize import bake, make_aware
from cil_spl.chip.rounding import Precision
from cil_spl.data.batches import Batch, Batches, augment_of
from cil_spl.data.events import Data, Splits
from cil_spl.data.options import Frames, Kind, encoding, kind_of
from cil_spl.data.samples import Samples
from cil_spl.models import answers, neurons
from cil_spl.models.build import build
from cil_spl.models.configured import network_of
from cil_spl.models.init import scale_to_rate
from cil_spl.models.layers import standardised
from cil_spl.models.net import Net
from cil_spl.models.neurons import Observation, load_weights, weights_of, written
from cil_spl.models.options import Backend
from cil_spl.models.plan import Plan
from cil_spl.tasks import evaluation as ev
from cil_spl.tasks.task import Task
from cil_spl.training.checkpoints import Stateful
from cil_spl.training.epochs import Fitted, fit, make_lean
from cil_spl.training.options import Trainer


class Observer(Protocol):
    """Another machine that does the forward pass; to a method it is only where values come from."""

    def load(self, net: Net) -> None:
        """Give it the network's present weights."""

    def open(self, batch: Batch) -> None:
        """Let it run a batch."""

    def windows(self) -> dict[str, Observation]:
        """What it saw in all time steps, by spiking layer. Shapes (T, B, ...)."""

    def window(self, t: int) -> dict[str, Observation]:
        """What it saw in time step ``t``. Shapes (1, B, ...)."""


@dataclass(frozen=True)
class Trained:
    """What a method ends with.

    Attributes:
        net: the spiking network, an ordinary sinabs one; or a CNN where nothing spikes.
        ann: the CNN it was converted from, where there was one.
        notes: what the method chose on validation, for the record.
    """

    net: Net
    ann: Net | None = None
    notes: Mapping[str, float] | None = None

    def networks(self, family: str) -> dict[str, Net]:
        """The float networks by stage, the last of them the one that a target of a family takes."""
        if self.ann is None:
            return {"float": self.net}
        return {"float": self.ann} | ({"spiking": self.net} if family == "snn" else {})


MASTER = ".parametrizations.weight.original"  # torch's name of the float weight that a rounded one is made of


def begin(net: nn.Module, start: Mapping[str, Tensor]) -> list[str]:
    """Put an earlier run's weights, thresholds and normalisation statistics into a network.

    Lower bounds stay those of the config, and so does what the earlier run had not.

    Returns:
        what the user should know: thresholds that are not the config's.

    Raises:
        RequestError: they are of another model.
    """
    given = {name.replace(MASTER, ".weight"): value for name, value in start.items()} | _standardised_of(net, start)
    own = weights_of(net)
    learned = [name for name, p in net.named_parameters() if p.requires_grad]
    taken = {
        name: given.get(name, value)
        for name, value in own.items()
        if not name.endswith(".min_v_mem") and (name in given or name not in learned)
    }
    kept = {name: value for name, value in own.items() if name.endswith(".min_v_mem")}
    try:
        load_weights(net, kept | taken)
    except RequestError as error:
        raise RequestError(f"start_from: {error}") from None
    return [
        f"start_from: layer {name.rpartition('.')[0]} keeps the threshold {written(taken[name])} of the run that it "
        f"starts from; model.neuron.spike_threshold={written(own[name])} has no effect on it"
        for name in taken
        if name.endswith(".spike_threshold") and not torch.equal(taken[name].to(own[name]), own[name])
    ]


def _standardised_of(net: nn.Module, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What standardised weights are made of, of an earlier run's: the same, or ones and gains that give its weights."""
    found: dict[str, Tensor] = {}
    for name, module in net.named_modules():
        norm = standardised(module)
        whole = start.get(f"{name}{MASTER}", start.get(f"{name}.weight"))
        if norm is not None and whole is not None:
            gain = f"{name}.parametrizations.weight.0.gain"
            found |= {f"{name}{MASTER}": whole, gain: start.get(gain, norm.spread(whole) / norm.scale)}
    return found


_CALIBRATION_VALUES = 1 << 27  # of frames that are looked at together


@dataclass(frozen=True)
class TrainingContext:
    """A run as a method sees it.

    Attributes:
        experiences: one as a rule, several for continual learning.
        neuron: options of :class:`cil_spl.models.options.Neuron`.
        precision: of the target's weights and states, and whether to train with weights rounded to it (``aware``).
        observer: another machine that does the forward pass in training; None for none.
        start: weights by name that training starts from (``start_from``); None for fresh ones.
        deployed: score of a spiking network on the deployment target, for choices on validation data, by the outputs
            that count (None for all); None where the target runs no spiking network.
        fresh: makes the network of a family where it is a user's own; None for that of the plan.
        backend: how neurons are computed.
        as_trained: whether that target runs a network as it was trained, so that the score is that in time steps.
        folder: where checkpoints go.
        log: metrics of an epoch; warn: what the user should know, said once.
        stages: the fits that are over, and their epochs.
    """

    plan: Plan
    experiences: tuple[Splits, ...]
    task: Task
    neuron: Mapping[str, Any]
    precision: Precision
    trainer: Trainer
    frames: Frames
    seed: int
    device: torch.device
    folder: Path
    log: Callable[[dict[str, float], int], None]
    warn: Callable[[str], None]
    augment: Any = None
    fresh: Callable[[str], Net] | None = None
    observer: Observer | None = None
    start: Mapping[str, Tensor] | None = None
    deployed: Callable[[Net, Batches, Sequence[int] | None], float] | None = None
    as_trained: bool = False
    backend: Backend = field(default_factory=Backend)
    stages: list[tuple[str, int]] = field(default_factory=list)

    def build(self, family: str) -> Net:
        """A network of the plan with the weights to start from, aware of rounding where asked, on the device."""
        net = self.fresh(family) if self.fresh else build(self.plan, family=family, neuron=self.neuron)
        if self.start is not None:
            for text in begin(net, self.start):
                self.warn(text)
        if self.precision.aware:
            make_aware(net, neurons.make(**self.neuron, features=1), self.precision)
        return net.compute_by(self.backend).to(self.device)

    def scale(self, net: Net, spread: float, bins: int | None = None) -> None:
        """Scale fresh weights (:func:`cil_spl.models.init.scale_to_rate`); those of an earlier run stay as they are."""
        if self.start is None:
            scale_to_rate(net, self.sample(bins), spread)

    def finish(self, net: Net) -> Net:
        """The trained network as an ordinary one."""
        bake(net)
        return net

    def batches(self, recordings: Data, *, train: bool, bins: int | None = None) -> Batches:
        """Batches of recordings or samples: shuffled and augmented for training, plain for evaluation."""
        frames = self.frames if bins is None else replace(self.frames, bins=bins)
        if not train:
            size, largest = self.trainer.eval_batch_size, self.plan.largest
            return Batches(recordings, size, frames, seed=self.seed, layer_values=largest)
        return Batches(
            recordings,
            self.trainer.batch_size,
            frames,
            shuffle=True,
            seed=self.seed,
            augment=self.augment,
            rank=ranks.number(),
            world=ranks.count(),
            limit=self.trainer.limit_batches,
        )

    def fit(
        self,
        *,
        step: Callable[[Batch], Mapping[str, float | Tensor]],
        score: Callable[[], Mapping[str, float]],
        batches: Batches,
        keep: Mapping[str, Stateful],
        monitor: str | None = None,
        better: Literal["more", "less"] | None = None,
        stage: str = "train",
        first_epoch: int = 0,
        mixed: bool = False,
    ) -> Fitted:
        """:func:`cil_spl.training.epochs.fit` as this run wants it.

        ``monitor`` is the validation metric to choose an epoch by, and ``better`` which of its values are better; both
        are the task's where None. ``mixed``: whether ``step`` computes in ``trainer.precision``.

        Raises:
            RequestError: the run asks for another precision than float32, and ``step`` knows of none.
        """
        if self.trainer.precision != "float32" and not mixed:
            raise RequestError(
                f"trainer.precision={self.trainer.precision}: this method has a training loop of its own, which "
                "computes in float32; use trainer.precision=float32, or let the method go through `learn`"
            )
        earlier = [name for name, _ in self.stages]
        after = self.stages[: earlier.index(stage)] if stage in earlier else list(self.stages)
        fitted = fit(
            step=step,
            score=score,
            batches=batches,
            keep=keep,
            trainer=self.trainer,
            monitor=monitor or self.task.monitor,
            better=better or self.task.better,
            folder=self.folder,
            log=self.log,
            stage=stage,
            first_epoch=first_epoch,
            after=after,
        )
        self.stages[len(after) :] = [(stage, fitted.epochs)]
        if ranks.first():
            for name, _ in after:
                make_lean(self.folder, name)
        return fitted

    def loss(self, outputs: Tensor, batch: Batch, scale: float = 1.0) -> Tensor:
        """The loss of outputs (B, K), padding left out, in float32 or more; zero where all is padding.

        ``scale`` is an inverse temperature of the task's softmax; a task without one takes the outputs as they are.
        """
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        if self.task.softmax and scale != 1:
            outputs = scale * outputs
        mask = batch.mask.to(outputs.device)
        if not bool(mask.any()):
            return 0 * outputs.sum()
        with torch.autocast(outputs.device.type, enabled=False):
            value = self.task.loss(outputs[mask], self.task.target(batch).to(outputs.device)[mask])
        return value if batch.share == 1 else value * batch.share

    def calibration(self, recordings: Data, bins: int | None = None) -> Batches:
        """Recordings of all classes mixed, as they are, alike on every rank, to calibrate something on.

        At most 64 at once: fewer where their time steps are many, by a rule that does not ask how much memory there is.
        """
        frames = self.frames if bins is None else replace(self.frames, bins=bins)
        at_once = max(1, min(64, _CALIBRATION_VALUES // (frames.bins * math.prod(recordings.input_shape))))
        return Batches(recordings, at_once, frames, shuffle=True, seed=self.seed)

    def sample(self, bins: int | None = None) -> Tensor:
        """Frames of some of the first training recordings, to scale fresh weights by. (T, B, C, H, W)."""
        return next(self.calibration(self.experiences[0].train, bins).epoch(0)).frames.to(self.device)

    @property
    def shown(self) -> float:
        """What a network in time steps gets, in all of them together, for a unit of a CNN's one frame."""
        kind: Kind = "values" if isinstance(self.experiences[0].train, Samples) else "events"
        encode = encoding(kind, self.frames.encode, self.frames.by, self.frames.duration_us)
        return float(self.frames.bins) if encode == "repeat" else 1.0

    @property
    def monitor(self) -> str:
        """What :meth:`score` is judged by: the score on the target, where one runs spikes."""
        return f"deployed_{self.task.monitor}" if self.deployed is not None else self.task.monitor

    def score(self, net: Net) -> dict[str, float]:
        """Validation metrics of a spiking network, in time steps and, where there is one, on the target.

        They are those of the first experience, by its outputs; a method that trains on several replaces
        ``experiences`` by the one that it trains on.
        """
        val, allowed = self.batches(self.experiences[0].val, train=False), self.experiences[0].outputs
        seen = ev.evaluate(answers.stepped_answer(net, self.device), val.epoch(0), self.task, allowed)
        self.watch(net, seen)
        found = {name: seen.metrics[name] for name in (self.task.monitor, "silent", "synops") if name in seen.metrics}
        if self.deployed is not None:
            same = self.as_trained  # then it has just been evaluated
            found[self.monitor] = seen.metrics[self.task.monitor] if same else self.deployed(net, val, allowed)
        return found

    def watch(self, net: Net, seen: ev.Evaluation) -> None:
        """Warn of what usually goes wrong: silent layers, classes never answered, weights above threshold."""
        for layer, events in seen.events.items():
            if not events.any():
                self.warn(
                    f"layer {layer} is silent: not one event in {len(events)} recordings; lower "
                    "model.neuron.spike_threshold, or raise method.init_rate where the method has it"
                )
        missing = [] if seen.decision is None else sorted(set(seen.target.tolist()) - set(seen.decision.tolist()))
        if missing:
            classes = self.experiences[0].train.classes
            names = ", ".join(classes[k] if classes else str(k) for k in missing)
            self.warn(f"never answered on validation: class {names}")
        for layer in answers.heavy_weights(net):
            self.warn(f"layer {layer} has weights above threshold: on a chip such neurons lag behind and keep firing")


def precision_of(cfg: Any) -> Precision:
    """The config group ``quantize``; a model may ask for training with rounded weights too."""
    asked = Precision(**cfg.quantize)
    return replace(asked, aware=asked.aware or cfg.model.aware)


def context_of(
    cfg: Any, plan: Plan, experiences: tuple[Splits, ...], task: Task, record: Any, start: Mapping[str, Tensor] | None
) -> TrainingContext:
    """A run as its config has it, before it has a target.

    Args:
        cfg: the checked config.
        plan: of the network.
        experiences: one as a rule.
        task: what outputs mean.
        record: takes what is logged and warned of; checkpoints go below its folder.
        start: weights to start from; None for fresh ones.
    """
    return TrainingContext(
        plan=plan,
        experiences=experiences,
        task=task,
        neuron=OmegaConf.to_container(cfg.model.neuron),  # type: ignore[arg-type]
        precision=precision_of(cfg),
        trainer=Trainer(**cfg.trainer),
        backend=Backend(**cfg.neurons),
        frames=Frames(**cfg.frames),
        fresh=lambda family: network_of(cfg, task, plan, family),
        seed=cfg.seed,
        device=device_of(cfg.trainer.device),
        folder=record.folder / "checkpoints",
        log=record.log,
        warn=record.warn,
        augment=augment_of(kind_of(cfg.dataset), cfg.dataset.get("augment")),
        start=start,
    )
