"""A deployed network, ready for recordings of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batches
from cil_spl.data.events import from_list
from cil_spl.data.preprocess import preprocess_recordings
from cil_spl.models.net import Net
from cil_spl.models.plan import Plan
from cil_spl.targets.target import Target, TargetNetwork
from cil_spl.tasks.evaluation import Answer
from cil_spl.tasks.task import Task


@dataclass(frozen=True)
class Prediction:
    """What the network says of one recording.

    Attributes:
        decision: number of the class, -1 where there is none; None where the task has no decisions.
        label: its name; why there is none, otherwise; None where the task has no decisions.
        counts: output events of each output. Shape ``[K]``.
        decision_us: time from which that class leads for good, in the recording's own time; None where unknown.
    """

    decision: int | None
    label: str | None
    counts: np.ndarray
    decision_us: int | None


@dataclass(frozen=True)
class DeployedNetwork:
    """A network on the target that its run deployed it to.

    Attributes:
        config: of the run.
        network: what it trained, and what its target holds of it.
        target: where it runs.
        task: what its outputs mean.
        classes: their names, in the order of their numbers.
    """

    config: Any
    network: TargetNetwork
    target: Target
    task: Task
    classes: tuple[str, ...]

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

    def predict(self, events: np.ndarray) -> Prediction:
        """The answer to one recording, pre-processed as the run's data were.

        Args:
            events: dtype ``EVENT``, within the run's ``dataset.sensor_size``. Shape ``[N]``.

        Raises:
            RequestError: an event that cannot be, or none is left after the pre-processing.
        """
        data = self.config.dataset
        if "sensor_size" not in data:
            raise RequestError(f"the network was trained on samples (dataset={data.name}); predict takes events only")
        recordings = from_list([events], [0], tuple(data.sensor_size), self.classes)
        recordings = preprocess_recordings(recordings, data.get("preprocess"))
        if not len(recordings[0]):
            raise RequestError("the recording has no event left after dataset.preprocess")
        (batch,) = Batches(recordings, 1, frames=self.config.frames).epoch(0)
        answer = self.answer(batch)
        counts = answer.counts.sum(axis=1)  # B T K -> B K
        decided = self.task.decide(counts, None)
        if decided is None:
            return Prediction(decision=None, label=None, counts=counts[0], decision_us=None)
        decision = int(decided[0])
        why = "no output event" if counts.max() <= 0 else "a tie"
        at = -1 if answer.decision_us is None or decision < 0 else int(answer.decision_us[0])
        return Prediction(
            decision=decision,
            label=self.classes[decision] if decision >= 0 else f"none ({why})",
            counts=counts[0],
            decision_us=at if at >= 0 else None,
        )
