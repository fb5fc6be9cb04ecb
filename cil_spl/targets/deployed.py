"""A deployed network, ready for recordings and samples of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batches
from cil_spl.data.events import Data, Recordings, from_list
from cil_spl.data.preparation import Preparation, chosen
from cil_spl.data.prepared import prepared
from cil_spl.data.samples import Samples
from cil_spl.models.net import Net
from cil_spl.models.plan import Plan
from cil_spl.targets.target import Target, TargetNetwork
from cil_spl.tasks.evaluation import Answer
from cil_spl.tasks.task import Task


@dataclass(frozen=True)
class Prediction:
    """What the network says of one recording or sample.

    Attributes:
        decision: number of the class, -1 where there is none; None where the task has no decisions.
        label: its name; why there is none, otherwise; None where the task has no decisions.
        counts: output events of each output. Shape ``[K]``.
        decision_us: time from which that class leads for good, in the recording's own time, from its first event on
            where it begins late (:mod:`cil_spl.data.times`); None where unknown.
        values: what the outputs say by the run's task, for example a picture (C, H, W); ``counts`` as a rule.
    """

    decision: int | None
    label: str | None
    counts: np.ndarray
    decision_us: int | None
    values: np.ndarray


@dataclass(frozen=True)
class DeployedNetwork:
    """A network on the target that its run deployed it to.

    Attributes:
        config: of the run.
        network: what it trained, and what its target holds of it.
        target: where it runs.
        task: what its outputs mean.
        classes: their names, in the order of their numbers.
        preparations: what was done to the run's samples, for each experience; empty where its data are recordings.
    """

    config: Any
    network: TargetNetwork
    target: Target
    task: Task
    classes: tuple[str, ...]
    preparations: tuple[Preparation, ...] = ()

    @property
    def net(self) -> Net:
        """The trained network, an ordinary sinabs one."""
        return self.network.net

    @property
    def plan(self) -> Plan:
        """Its plan."""
        return self.network.plan

    @cached_property
    def answer(self) -> Answer:
        """The deployed network as an evaluation sees it."""
        return self.target.answer(self.network)

    def predict(self, data: np.ndarray, experience: int | None = None) -> Prediction:
        """The answer to one recording or sample, which is treated as the run's data were.

        Args:
            data: a recording, dtype ``EVENT``, within the run's ``dataset.sensor_size``, shape ``[N]``; or a sample as
                the data set has it, of the run's ``dataset.input_shape`` (see :class:`Preparation`).
            experience: of which the sample is, where the run learnt several; its outputs count.

        Raises:
            RequestError: an event or a value that cannot be, data of another kind or shape, an experience that there is
                not, or no event is left after the pre-processing.
        """
        allowed: tuple[int, ...] | None = None
        one: Data
        if self.preparations:
            preparation = chosen(self.preparations, experience)
            one, allowed = self._sample(data, preparation), preparation.outputs
        else:
            one = self._recording(data)
        (batch,) = Batches(one, 1, frames=self.config.frames).epoch(0)
        answer = self.answer(batch)
        counts = answer.counts.sum(axis=1)  # B T K -> B K
        values = self.task.values(counts, one.input_shape)[0]
        decided = self.task.decide(counts, allowed)
        if decided is None:
            return Prediction(decision=None, label=None, counts=counts[0], decision_us=None, values=values)
        decision = int(decided[0])
        counted = counts if allowed is None else counts[:, list(allowed)]
        why = "no output event" if counted.max() <= 0 else "a tie"
        at = -1 if answer.decision_us is None or decision < 0 else int(answer.decision_us[0])
        return Prediction(
            decision=decision,
            label=self.classes[decision] if decision >= 0 else f"none ({why})",
            counts=counts[0],
            decision_us=at if at >= 0 else None,
            values=values,
        )

    def _recording(self, events: np.ndarray) -> Recordings:
        data = self.config.dataset
        recordings = from_list([events], [0], tuple(data.sensor_size), self.classes)
        ready = prepared({"one": recordings}, data.get("preprocess"), self.config.frames.duration_us)
        recordings = ready["one"]
        if not len(recordings[0]):
            raise RequestError("the recording has no event left after dataset.preprocess")
        return recordings

    def _sample(self, values: np.ndarray, preparation: Preparation) -> Samples:
        found = preparation.checked(values, "sample")
        if len(found) != 1:
            raise RequestError(f"sample: an array of {len(found)} samples; predict takes them one by one")
        return preparation.samples(found, ["sample"])
