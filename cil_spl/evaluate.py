"""A finished run's network once more: on other data, on another target, on many dies, with its events in other orders.

Nothing is trained and nothing is chosen: the weights are the run's, rounded by the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from omegaconf import OmegaConf

from cil_spl import schema
from cil_spl.base import fence
from cil_spl.base.errors import RequestError
from cil_spl.data import datasets
from cil_spl.data.batches import Batch
from cil_spl.data.events import Data, Recordings, Splits, shuffled_within
from cil_spl.load import trained_network
from cil_spl.models import answers
from cil_spl.models.net import Net
from cil_spl.results.runs import Run
from cil_spl.results.start import check_data
from cil_spl.targets.deploy import evaluated
from cil_spl.targets.target import Asked, Target, TargetNetwork, released
from cil_spl.tasks import evaluation as ev
from cil_spl.training.context import TrainingContext, context_of

MOST_KEPT = 1 << 30  # bytes of frames that are kept from die to die


@dataclass(frozen=True)
class Again:
    """A trained network and the data it is to be evaluated on.

    Attributes:
        config: of the run, with what was changed.
        net: with the run's weights.
        ctx: with the data, and the task.
        split: the recordings that are asked.
        warnings: of the target, and of rounding.
    """

    config: Any
    net: Net
    ctx: TrainingContext
    split: Literal["test", "val"]
    warnings: list[str]

    def stages(self) -> dict[str, ev.Evaluation]:
        """The network in time steps, rounded, and on the target, as at the end of a run."""
        bins = answers.bins_of(self.net)
        found = {"float": self._of(answers.answer_of(self.net, self.ctx.device), bins)}
        with released(self._target()) as target:
            network = self._on(target)
            rounded = network.quantized()
            if rounded is not None:
                found["quantized"] = self._of(answers.answer_of(rounded), bins)
            found["deployed"] = self._of(target.answer(network), bins)
            self.warnings.extend(target.judge(found["deployed"].metrics))
        return found

    def dies(self, seeds: Sequence[int]) -> Iterator[tuple[int, ev.Evaluation]]:
        """On the simulated chip with the die of the config, its seed each of ``seeds``.

        Raises:
            RequestError: the config has no die.
        """
        die: Any = self.config.target.get("die")
        if not die:
            raise RequestError(
                "--dies: target.die is null, so all dies are alike; say how they differ, for example "
                "'target.die={threshold_spread: 0.2}'"
            )
        plain: Any = OmegaConf.to_container(die)
        batches = self._batches()
        for seed in seeds:
            with released(self._target(die={**plain, "seed": seed})) as target:
                yield seed, self._of_batches(target.answer(self._on(target)), batches)

    def orders(self, seeds: Sequence[int], within_us: int) -> Iterator[tuple[int, ev.Evaluation]]:
        """On the target, times redrawn at random within windows of so many microseconds, once for each seed."""
        with released(self._target()) as target:
            answer = target.answer(self._on(target))
            for seed in seeds:
                drawn = tuple(self._redrawn(one, seed, within_us) for one in self.ctx.experiences)
                yield (
                    seed,
                    replace(self, ctx=replace(self.ctx, experiences=drawn))._of(answer, answers.bins_of(self.net)),
                )

    def _redrawn(self, experience: Splits, seed: int, within_us: int) -> Splits:
        data: Data = getattr(experience, self.split)
        if not isinstance(data, Recordings):
            name = self.config.dataset.name
            raise RequestError(f"--orders: dataset={name} has samples, whose values have no order in time")
        changes: dict[str, Any] = {self.split: shuffled_within(data, within_us, seed)}
        return replace(experience, **changes)

    def _target(self, **changes: Any) -> Target:
        config = self.config.copy()
        OmegaConf.update(config, "target", changes, force_add=True)
        target: Target = fence.make(config, "target")
        try:
            self.warnings.extend(w for w in target.check(self.net.plan, self._asked()) if w not in self.warnings)
        except BaseException:
            target.close()
            raise
        return target

    def _asked(self) -> Asked:
        return replace(schema.asked(self.config), observer=None)

    def _on(self, target: Target) -> TargetNetwork:
        data = self.ctx.experiences[-1]
        network = target.quantize(self.net, self.ctx.precision, self.ctx.calibration(data.train, bins=1))
        self.warnings.extend(w for w in network.warnings if w not in self.warnings)
        return network

    def _of(self, answer: ev.Answer, bins: int | None) -> ev.Evaluation:
        return evaluated(self.ctx, answer, self.split, bins)[0]

    def _batches(self) -> list[list[Batch]] | None:
        """The batches of each experience, where they fit; None where they are made anew for every die."""
        bins = answers.bins_of(self.net) or self.config.frames.bins
        parts = [getattr(one, self.split) for one in self.ctx.experiences]
        size = sum(len(part) * int(np.prod(part.input_shape)) * bins * 4 for part in parts)
        if size > MOST_KEPT:
            return None
        return [list(self.ctx.batches(part, train=False, bins=bins).epoch(0)) for part in parts]

    def _of_batches(self, answer: ev.Answer, batches: list[list[Batch]] | None) -> ev.Evaluation:
        if batches is None:
            return self._of(answer, answers.bins_of(self.net))
        outputs = [one.outputs for one in self.ctx.experiences]
        return ev.evaluate_experiences(answer, list(zip(batches, outputs, strict=True)), self.ctx.task)[0]


def again(run: Run, config: Any, extensions: Sequence[str] = (), split: Literal["test", "val"] = "test") -> Again:
    """A run's network, ready to be evaluated.

    Args:
        run: from :func:`cil_spl.results.runs.find`; finished.
        config: of the run, with what is to be different; what training depended on is as the run had it.
        extensions: modules whose functions the config may name.
        split: the recordings to ask.

    Raises:
        RequestError: the run left no network, or the config asks for what cannot be.
    """
    if run.status != "finished":
        raise RequestError(f"{run.folder}: the run is {run.status}; only a finished one has a network to evaluate")
    config = schema.check_config(config, extensions)
    task = fence.make(config, "task")
    net = trained_network(run, config, task)
    experiences = datasets.load(
        config.dataset,
        config.get("test_dataset"),
        config.seed,
        config.extensions,
        duration_us=config.frames.duration_us,
    )
    schema.check_experiences(config, len(experiences))
    check_data(config, experiences)
    warnings: list[str] = []
    record = SimpleNamespace(folder=Path(), log=None, warn=warnings.append)
    ctx = context_of(config, net.plan, experiences, task, record, None)
    return Again(config, net, ctx, split, warnings)


def summary(values: Sequence[float], at_least: float) -> Mapping[str, float]:
    """Of one figure over dies: mean, standard deviation (n - 1), extremes, and the share of at least so much."""
    found = np.asarray(values, np.float64)
    return {
        "mean": float(found.mean()),
        "sd": float(found.std(ddof=1)) if len(found) > 1 else 0.0,
        "min": float(found.min()),
        "median": float(np.median(found)),
        "max": float(found.max()),
        "yield": float((found >= at_least).mean()),
    }
