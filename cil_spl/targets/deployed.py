"""A deployed network, ready for recordings of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batches
from cil_spl.data.events import from_list
from cil_spl.data.preprocess import preprocess_recordings
from cil_spl.models.plan import Plan
from cil_spl.tasks.classification import Task


@dataclass(frozen=True)
class Prediction:
    """What the network says of one recording.

    Attributes:
        decision: number of the class, -1 where there is none.
        label: its name; why there is none, otherwise.
        counts: output events of each class. Shape ``[K]``.
        decision_us: time from which that class leads for good, in the recording's own time; None where unknown.
    """

    decision: int
    label: str
    counts: np.ndarray
    decision_us: int | None


@dataclass(frozen=True)
class DeployedNetwork:
    """A network on the target that its run deployed it to.

    Attributes:
        config: of the run.
        net: the trained network, an ordinary sinabs one.
        classes: their names, in the order of their numbers.
    """

    config: Any
    plan: Plan
    net: Any
    target: Any
    task: Task
    classes: tuple[str, ...]

    def predict(self, events: np.ndarray) -> Prediction:
        """Classify one recording, pre-processed as the run's data were.

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
        answer = self.target.answer(batch)
        counts = answer.counts.sum(axis=1)  # B T K -> B K
        decision = int(self.task.decide(counts)[0])
        why = "no output event" if counts.max() <= 0 else "a tie"
        known = answer.decision_us is not None and decision >= 0 and answer.decision_us[0] >= 0
        return Prediction(
            decision=decision,
            label=self.classes[decision] if decision >= 0 else f"none ({why})",
            counts=counts[0],
            decision_us=int(answer.decision_us[0]) if known else None,
        )
