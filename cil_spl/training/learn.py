"""The loop of a gradient-based method, apart from its gradient: so that one method can host another.

A method's ``gradient`` is a function of a batch. It leaves gradients in the parameters and yields once for each update,
after which the weights have changed: once for each batch as a rule, at every time step for a method that learns online.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from cil_spl.data.batches import Batch
from cil_spl.models import neurons
from cil_spl.training.checkpoints import Stateful, Weights
from cil_spl.training.context import TrainingContext
from cil_spl.training.epochs import Fitted
from cil_spl.training.mixed_precision import mixed
from cil_spl.training.update import Update


@dataclass(frozen=True)
class Step:
    """What a gradient was taken of, for the log.

    Attributes:
        loss: a number, without a graph.
        outputs: of the network, summed over the time steps of this update, without a graph. Shape (B, K).
    """

    loss: Tensor
    outputs: Tensor


Gradient = Callable[[Batch], Iterator[Step]]


def learn(
    ctx: TrainingContext,
    net: nn.Module,
    gradient: Gradient | Sequence[tuple[float, Gradient]],
    *,
    lr: float,
    bins: int | None = None,
    updates: int = 1,
    params: Sequence[nn.Parameter] | None = None,
    transform: Callable[[list[nn.Parameter]], None] | None = None,
    keep: Mapping[str, Stateful] | None = None,
    score: Callable[[], Mapping[str, float]] | None = None,
    monitor: str | None = None,
    better: Literal["more", "less"] | None = None,
    stage: str = "train",
    first_epoch: int = 0,
) -> Fitted:
    """Step along a gradient for the run's epochs, and leave the network as it was at the best of them.

    Args:
        ctx: the run; it trains on the first experience.
        net: the network; all of it that requires a gradient learns, unless ``params`` says what.
        gradient: or several of them, each with the share of all updates up to which it is taken, ascending to 1.
        lr: learning rate.
        bins: time steps of the batches; None for those of the run.
        updates: how many a batch brings.
        params: what learns.
        transform: changes gradients before a step.
        keep: what else training changes, by name, to be saved with the network.
        score: validation metrics after an epoch; None for those of a spiking network (:meth:`TrainingContext.score`).
        monitor: the one by which an epoch is chosen, and which of its values are ``better``; None for the run's own.
        stage, first_epoch: see :func:`cil_spl.training.epochs.fit`.
    """
    batches = ctx.batches(ctx.experiences[0].train, train=True, bins=bins)
    total = ctx.trainer.epochs * len(batches) * updates
    learning = net.parameters() if params is None else params
    update = Update(learning, ctx.trainer, lr=lr, total_steps=total, transform=transform)
    phases = gradient if isinstance(gradient, Sequence) else [(1.0, gradient)]

    def step(batch: Batch) -> dict[str, float | Tensor]:
        present = next((one for until, one in phases if update.steps < until * total), phases[-1][1])
        return _taken(ctx, net, update, mixed(present(batch), net, ctx.trainer.precision, ctx.device), batch)

    kept: dict[str, Stateful] = {"net": Weights(net), "update": update, **(keep or {})}
    fitted = ctx.fit(
        step=step,
        score=score or (lambda: ctx.score(net)),  # type: ignore[arg-type]
        batches=batches,
        keep=kept,
        monitor=monitor or ctx.monitor,
        better=better,
        stage=stage,
        first_epoch=first_epoch,
        mixed=True,
    )
    return _seen(ctx, fitted, phases[-2][0] if len(phases) > 1 else 1.0)


def _taken(
    ctx: TrainingContext, net: nn.Module, update: Update, steps: Iterator[Step], batch: Batch
) -> dict[str, float | Tensor]:
    """Take the steps of a batch; for the log the mean of their losses, and their outputs together."""
    taken = []
    for one in steps:
        update()
        neurons.keep_positive(net)
        taken.append(one)
    outputs = sum((one.outputs for one in taken[1:]), start=taken[0].outputs)
    loss = taken[0].loss if len(taken) == 1 else sum(one.loss for one in taken) / len(taken)
    return {"loss": loss, **ctx.task.train_metrics(outputs, ctx.task.target(batch))}


def _seen(ctx: TrainingContext, fitted: Fitted, plain: float) -> Fitted:
    """What training came to, and a word to the user where the chip in the loop came after the epoch that counts."""
    if 0 < fitted.best_epoch <= plain * ctx.trainer.epochs < ctx.trainer.epochs:
        ctx.warn(
            f"epoch {fitted.best_epoch} of {fitted.epochs} counts, from before the chip was in the loop "
            "(method.plain): it changed nothing in this network"
        )
    return fitted
