"""One evaluation for every network: float, quantised, deployed, on the same recordings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.batches import Batch
from cil_spl.tasks.task import Task


@dataclass(frozen=True)
class Activity:
    """What a network answered to a batch. B recordings, T bins, K outputs.

    Attributes:
        counts: output events, or a CNN's outputs with T = 1. Shape (B, T, K).
        events: events of each layer's neurons, before pooling, by layer. Shape (B,) each.
        synops: additions that reached an existing neuron, by layer, the input layer included. Shape (B,) each.
        decision_us: time from which the final class leads, -1 where none does; None where there is no time.
        saturations: how often a 16-bit state left its range, by layer; None where states do not saturate.
        dropped: events that a congested layer's input dropped, by layer; None where none was. Shape (B,) each.
        extra: other figures of a recording, reported as their means. Shape (B,) each.
        macs: multiply-accumulates of a network without events, zeros included, by layer. Shape (B,) each.

    ``events`` and ``synops`` are NaN for a layer whose activity is not known.
    """

    counts: np.ndarray
    events: dict[str, np.ndarray]
    synops: dict[str, np.ndarray]
    decision_us: np.ndarray | None = None
    saturations: dict[str, np.ndarray] | None = None
    dropped: dict[str, np.ndarray] | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    macs: dict[str, np.ndarray] = field(default_factory=dict)


Answer = Callable[[Batch], Activity]
QUANTITIES = ("events", "synops", "macs")


@dataclass(frozen=True)
class Evaluation:
    """An evaluation over a set of recordings; ``metrics`` are flat, everything else is per recording.

    ``decision`` is None where the task has no decisions.
    """

    metrics: dict[str, float]
    decision: np.ndarray | None
    target: np.ndarray
    index: np.ndarray
    outputs: np.ndarray
    events: dict[str, np.ndarray] = field(default_factory=dict)


class _Seen:
    """What has been collected of a network's answers, padding left out."""

    def __init__(self) -> None:
        self.outputs: list[np.ndarray] = []
        self.target: list[np.ndarray] = []
        self.index: list[np.ndarray] = []
        self.times: list[np.ndarray] = []
        self.duration: list[np.ndarray] = []
        self.by_layer: dict[str, dict[str, list[np.ndarray]]] = {name: {} for name in QUANTITIES}
        self.extra: dict[str, list[np.ndarray]] = {}
        self.saturations: dict[str, int] = {}
        self.dropped: dict[str, int] = {}

    def add(self, batch: Batch, a: Activity, target: np.ndarray) -> None:
        real = batch.mask.numpy()
        self.outputs.append(a.counts.sum(axis=1)[real])  # B T K -> B K
        self.target.append(target[real])
        self.index.append(np.asarray(batch.index)[real])
        self.duration.append(_span_us(batch)[real])
        by_layer = [(self.by_layer[name], getattr(a, name)) for name in QUANTITIES]
        for into, values in (*by_layer, (self.extra, a.extra)):
            for name, value in values.items():
                into.setdefault(name, []).append(value[real])
        if a.decision_us is not None:
            self.times.append(a.decision_us[real])
        for totals, found in ((self.saturations, a.saturations), (self.dropped, a.dropped)):
            for name, value in (found or {}).items():
                totals[name] = totals.get(name, 0) + int(value[real].sum())

    def take_over(self, other: _Seen) -> None:
        """Add what has been collected of another set, whose places come after those of this one."""
        first = sum(len(part) for part in self.target)
        self.index += [index + first for index in other.index]
        for name in ("outputs", "target", "times", "duration"):
            getattr(self, name).extend(getattr(other, name))
        for into, found in (*((self.by_layer[q], other.by_layer[q]) for q in QUANTITIES), (self.extra, other.extra)):
            for key, parts in found.items():
                into.setdefault(key, []).extend(parts)
        for totals, more in ((self.saturations, other.saturations), (self.dropped, other.dropped)):
            for key, value in more.items():
                totals[key] = totals.get(key, 0) + value

    def activity(self) -> dict[str, float]:
        """Means per recording of what the layers did."""
        found: dict[str, float] = {}
        seconds = np.maximum(np.concatenate(self.duration), 1) * 1e-6
        for quantity, collected in self.by_layer.items():
            if not collected and quantity != "events":  # a CNN has no events, and nothing that is counted by them
                continue
            per_layer = {name: np.concatenate(parts) for name, parts in collected.items()}
            known = {name: value for name, value in per_layer.items() if not np.isnan(value).any()}
            if len(known) == len(per_layer):
                found[quantity] = float(sum(v.mean() for v in known.values()))
            for name, value in known.items():
                found[f"{quantity}/{name}"] = float(value.mean())
                if self.times:
                    found[f"{quantity}_per_second/{name}"] = float((value / seconds).mean())
        return found

    def figures(self, n: int) -> dict[str, float]:
        """What the network tells besides."""
        found = {name: float(np.concatenate(parts).mean()) for name, parts in self.extra.items()}
        found |= {f"saturations/{name}": float(total) for name, total in self.saturations.items()}
        if any(self.dropped.values()):
            found["dropped"] = sum(self.dropped.values()) / n
            found |= {f"dropped/{name}": total / n for name, total in self.dropped.items()}
        if self.times:
            at = np.concatenate(self.times)
            decided = at[at >= 0]
            found["decision_ms"] = float(decided.mean() / 1000) if len(decided) else math.nan
        return found


def evaluate(answer: Answer, batches: Iterable[Batch], task: Task, allowed: Sequence[int] | None = None) -> Evaluation:
    """Let a network answer every recording and reckon up.

    Metrics: those of the task; ``n`` recordings; ``silent``, the fraction without an output event, and ``ties``, the
    fraction with some but without a decision, where the task has decisions; ``synops``, ``macs`` and ``events``, mean
    per recording, in total and by layer (nothing of a layer that is not known, then no total); ``decision_ms``, the
    mean time to decision; ``dropped``, events that congestion dropped, mean per recording, in total and by layer, only
    if there were any; and the means of what the network tells besides.

    Args:
        answer: the network.
        batches: the set.
        task: what outputs mean.
        allowed: the outputs that count; None for all.

    Raises:
        RequestError: the task's metrics lack the one that it is judged by.
    """
    return _evaluation(*_collected(answer, batches, task, allowed), task)


def evaluate_experiences(
    answer: Answer, experiences: Sequence[tuple[Iterable[Batch], Sequence[int] | None]], task: Task
) -> tuple[Evaluation, tuple[Evaluation, ...]]:
    """Evaluate a network on several experiences, each with its own outputs.

    Args:
        answer: the network.
        experiences: the batches of each, and the outputs that count there.
        task: what outputs mean.

    Returns:
        all of them as one set, one after another, but with the means over the experiences of the metrics that the task
        is judged by and shows; and each by itself, nothing where there is one only.
    """
    found = [_collected(answer, batches, task, allowed) for batches, allowed in experiences]
    each = tuple(_evaluation(*one, task) for one in found)
    if len(each) == 1:
        return each[0], ()
    together = _Seen()
    for seen, _ in found:
        together.take_over(seen)
    decisions = [decision for _, decision in found if decision is not None]
    whole = _evaluation(together, np.concatenate(decisions) if decisions else None, task)
    names = {task.monitor, *(column.metric for column in task.columns)} & whole.metrics.keys()
    means = {name: float(np.mean([one.metrics[name] for one in each])) for name in names}
    return replace(whole, metrics=whole.metrics | means), each


def _collected(
    answer: Answer, batches: Iterable[Batch], task: Task, allowed: Sequence[int] | None
) -> tuple[_Seen, np.ndarray | None]:
    """A network's answers to a set, and the decisions."""
    seen = _Seen()
    for batch in batches:
        seen.add(batch, answer(batch), task.target(batch).numpy())
    return seen, task.decide(np.concatenate(seen.outputs), allowed)


def _evaluation(seen: _Seen, decision: np.ndarray | None, task: Task) -> Evaluation:
    out, target = np.concatenate(seen.outputs), np.concatenate(seen.target)
    metrics = {name: float(value) for name, value in task.metrics(out, decision, target).items()}
    if task.monitor not in metrics:
        raise RequestError(
            f"task={task.name}: monitor={task.monitor}: its metrics have no such name; they are {', '.join(metrics)}"
        )
    metrics["n"] = float(len(target))
    spiking = bool(seen.by_layer["events"])
    silent = (out == 0).all(axis=1) if spiking else np.zeros(len(target), bool)
    metrics["silent"] = float(silent.mean())
    if decision is not None:
        metrics["ties"] = float(((decision < 0) & ~silent).mean())
    return Evaluation(
        metrics=metrics | seen.activity() | seen.figures(len(target)),
        decision=decision,
        target=target,
        index=np.concatenate(seen.index),
        outputs=out,
        events={name: np.concatenate(parts) for name, parts in seen.by_layer["events"].items()},
    )


def _span_us(batch: Batch) -> np.ndarray:
    """How long each recording's bins are in all; 0 for samples. Shape (B,)."""
    return np.zeros(len(batch)) if batch.edges_us is None else batch.edges_us[:, -1] - batch.edges_us[:, 0]


def decision_times(counts: np.ndarray, edges_us: np.ndarray) -> np.ndarray:
    """End of the bin from which the final class leads without a break; -1 where there is no strict winner.

    Shape:
        counts: (B, T, K), edges_us: (B, T + 1) → (B,).
    """
    so_far = np.cumsum(counts, axis=1)
    final = so_far[:, -1]
    winner = final.argmax(axis=1)
    top = (
        np.partition(so_far, -2, axis=2)[..., -2:]
        if counts.shape[2] > 1
        else np.stack([np.zeros_like(so_far[..., 0])] * 2, -1)
    )
    leads = (so_far.argmax(axis=2) == winner[:, None]) & (top[..., 1] > top[..., 0])  # B T
    lost = np.where(leads, -1, np.arange(counts.shape[1]))
    first = lost.max(axis=1) + 1
    decided = leads[:, -1]
    at = edges_us[np.arange(len(counts)), np.minimum(first + 1, counts.shape[1])]
    return np.where(decided, at, -1)
