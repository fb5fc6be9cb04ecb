"""From a trained network to its evaluations: float, quantised and on the target, each on the same test recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cil_spl.chip.interchange import save
from cil_spl.data.batches import Batches
from cil_spl.models import answers
from cil_spl.models.net import Net
from cil_spl.targets.target import Target, TargetNetwork
from cil_spl.tasks import evaluation as ev
from cil_spl.tasks.task import Task
from cil_spl.training.context import Observer, Trained, TrainingContext


def with_target(ctx: TrainingContext, target: Target, observer: Observer | None = None) -> TrainingContext:
    """What a method is handed, with its observer and the score on a target that runs spiking networks."""
    if target.family != "snn":
        return ctx

    def deployed(net: Net, batches: Batches, allowed: Sequence[int] | None = None) -> float:
        answer = target.answer(target.quantize(net, ctx.precision))
        return ev.evaluate(answer, batches.epoch(0), ctx.task, allowed).metrics[ctx.task.monitor]

    return replace(ctx, observer=observer, deployed=deployed, as_trained=target.as_trained)


@dataclass(frozen=True)
class Deployed:
    """What a run's network came to.

    Attributes:
        network: as the target holds it.
        evaluations: by stage, on the test recordings; on those of all experiences where there are several.
        by_experience: by stage, on each experience; empty where there is one only.
        chosen_by: of the deployed network on the validation recordings, by which settings are compared.
        figures: what the network takes of the target.
    """

    network: TargetNetwork
    evaluations: dict[str, ev.Evaluation]
    by_experience: dict[str, tuple[ev.Evaluation, ...]]
    chosen_by: ev.Evaluation
    figures: dict[str, float]

    def metrics(self, score: str, task: Task) -> dict[str, float]:
        """All of it, by ``stage/quantity``; ``score`` is the name of the validation score that the task is judged by.

        Of several experiences the columns of the task stand there by experience too, ``stage/quantity/experience_0``.
        """
        found = {f"{stage}/{name}": v for stage, seen in self.evaluations.items() for name, v in seen.metrics.items()}
        for stage, each in self.by_experience.items():
            for k, seen in enumerate(each):
                shown = [column.metric for column in task.columns if column.metric in seen.metrics]
                found |= {f"{stage}/{name}/experience_{k}": seen.metrics[name] for name in shown}
        found |= {f"{stage}/synops_ratio": v for stage, v in synops_ratios(self.evaluations).items()}
        found |= {f"deployed/{name}": value for name, value in self.figures.items()}
        return found | {score: self.chosen_by.metrics[task.monitor]}


def synops_ratios(evaluations: Mapping[str, ev.Evaluation]) -> dict[str, float]:
    """Synaptic operations of the spiking networks over those of the ANN that they were made of; nothing without one.

    An ANN's are its multiply-accumulates. A spiking network's are its accumulates (``synops``), and the
    multiply-accumulates (``macs``) of what does not get spikes, such as a layer that reads an image.
    """
    ann = evaluations["float"].metrics
    if "macs" not in ann or "synops" in ann:
        return {}
    return {
        stage: (seen.metrics["synops"] + seen.metrics.get("macs", 0.0)) / ann["macs"]
        for stage, seen in evaluations.items()
        if "synops" in seen.metrics
    }


def deploy(target: Target, trained: Trained, ctx: TrainingContext, folder: Path) -> Deployed:
    """Quantise, load and evaluate; the chip network, where there is one, becomes ``chip.npz`` in ``folder``."""
    data = ctx.experiences[-1]
    by_experience: dict[str, tuple[ev.Evaluation, ...]] = {}
    networks = trained.networks(target.family)
    net = [*networks.values()][-1]
    bins = answers.bins_of(net)

    def judge(stage: str, answer: ev.Answer, bins: int | None) -> ev.Evaluation:
        whole, each = evaluated(ctx, answer, "test", bins)
        by_experience.update({stage: each} if each else {})
        return whole

    found = {
        stage: judge(stage, answers.answer_of(one, ctx.device), answers.bins_of(one)) for stage, one in networks.items()
    }
    network = target.quantize(net, ctx.precision, ctx.calibration(data.train, bins=1))
    _tell(ctx, network.warnings)
    if network.chip is not None:
        save(network.chip, folder / "chip.npz")
    rounded = network.quantized()
    if rounded is not None:
        found["quantized"] = judge("quantized", answers.answer_of(rounded), bins)
    answer = target.answer(network)
    found["deployed"] = judge("deployed", answer, bins)
    _tell(ctx, target.judge(found["deployed"].metrics))
    chosen_by, _ = evaluated(ctx, answer, "val", bins)
    return Deployed(network, found, by_experience, chosen_by, target.figures(network))


def evaluated(
    ctx: TrainingContext, answer: ev.Answer, split: Literal["val", "test"], bins: int | None
) -> tuple[ev.Evaluation, tuple[ev.Evaluation, ...]]:
    """:func:`cil_spl.tasks.evaluation.evaluate_experiences` on a split of all that a run learnt."""
    parts = [
        (ctx.batches(getattr(one, split), train=False, bins=bins).epoch(0), one.outputs) for one in ctx.experiences
    ]
    return ev.evaluate_experiences(answer, parts, ctx.task)


def _tell(ctx: TrainingContext, warnings: Sequence[str]) -> None:
    for text in warnings:
        ctx.warn(text)
