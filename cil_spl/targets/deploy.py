"""From a trained network to its evaluations: float, quantised and on the target, each on the same test recordings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cil_spl.chip.interchange import save
from cil_spl.data.batches import Batches
from cil_spl.models import answers
from cil_spl.models.net import Net
from cil_spl.targets.target import Target, TargetNetwork
from cil_spl.tasks import evaluation as ev
from cil_spl.training.context import Observer, Trained, TrainingContext


def with_target(ctx: TrainingContext, target: Target, observer: Observer | None = None) -> TrainingContext:
    """What a method is handed, with its observer and the score on a target that runs spiking networks."""
    if target.family != "snn":
        return ctx

    def deployed(net: Net, batches: Batches) -> float:
        answer = target.answer(target.quantize(net, ctx.precision))
        return ev.evaluate(answer, batches.epoch(0), ctx.task).metrics[ctx.task.monitor]

    return replace(ctx, observer=observer, deployed=deployed)


@dataclass(frozen=True)
class Deployed:
    """What a run's network came to.

    Attributes:
        network: as the target holds it.
        evaluations: by stage, on the test recordings.
        chosen_by: of the deployed network on the validation recordings, by which settings are compared.
        figures: what the network takes of the target.
    """

    network: TargetNetwork
    evaluations: dict[str, ev.Evaluation]
    chosen_by: ev.Evaluation
    figures: dict[str, float]

    def metrics(self, score: str, monitor: str) -> dict[str, float]:
        """All of it, by ``stage/quantity``; ``score`` is the name of the validation score by ``monitor``."""
        found = {f"{stage}/{name}": v for stage, seen in self.evaluations.items() for name, v in seen.metrics.items()}
        found |= {f"deployed/{name}": value for name, value in self.figures.items()}
        return found | {score: self.chosen_by.metrics[monitor]}


def deploy(target: Target, trained: Trained, ctx: TrainingContext, folder: Path) -> Deployed:
    """Quantise, load and evaluate; the chip network, where there is one, becomes ``chip.npz`` in ``folder``."""
    plan, data = ctx.plan, ctx.experiences[-1]
    networks = trained.networks(target.family)
    net = [*networks.values()][-1]
    bins = answers.bins_of(net)

    def judge(answer: ev.Answer, recordings: Any, bins: int | None) -> ev.Evaluation:
        return ev.evaluate(answer, ctx.batches(recordings, train=False, bins=bins).epoch(0), ctx.task)

    found = {
        stage: judge(answers.answer_of(one, plan, ctx.device), data.test, answers.bins_of(one))
        for stage, one in networks.items()
    }
    network = target.quantize(net, ctx.precision, ctx.calibration(data.train, bins=1))
    _tell(ctx, network.warnings)
    if network.chip is not None:
        save(network.chip, folder / "chip.npz")
    rounded = network.quantized()
    if rounded is not None:
        found["quantized"] = judge(answers.answer_of(rounded, plan), data.test, bins)
    answer = target.answer(network)
    found["deployed"] = judge(answer, data.test, bins)
    _tell(ctx, target.judge(found["deployed"].metrics))
    return Deployed(network, found, judge(answer, data.val, bins), target.figures(network))


def _tell(ctx: TrainingContext, warnings: Sequence[str]) -> None:
    for text in warnings:
        ctx.warn(text)
