"""One evaluation for every network: float, quantised, deployed, on the same recordings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from cil_spl.data.batches import Batch
from cil_spl.tasks.classification import Task


@dataclass(frozen=True)
class Activity:
    """What a network answered to a batch. B recordings, T bins, K outputs.

    Attributes:
        counts: output events, or a CNN's outputs with T = 1. Shape (B, T, K).
        events: events of each layer's neurons, before pooling, by layer. Shape (B,) each.
        synops: additions that reached an existing neuron, by layer, the input layer included; for a CNN
            multiply-accumulates. Shape (B,) each.
        decision_us: time from which the final class leads, -1 where none does; None where there is no time.
        saturations: how often a 16-bit state left its range, by layer; None where states do not saturate.
        dropped: events that a congested layer's input dropped, by layer; None where none was. Shape (B,) each.
        extra: other figures of a recording, reported as their means. Shape (B,) each.

    ``events`` and ``synops`` are NaN for a layer whose activity is not known.
    """

    counts: np.ndarray
    events: dict[str, np.ndarray]
    synops: dict[str, np.ndarray]
    decision_us: np.ndarray | None = None
    saturations: dict[str, np.ndarray] | None = None
    dropped: dict[str, np.ndarray] | None = None
    extra: dict[str, np.ndarray] = field(default_factory=dict)


Answer = Callable[[Batch], Activity]


@dataclass(frozen=True)
class Evaluation:
    """An evaluation over a set of recordings; ``metrics`` are flat, everything else is per recording."""

    metrics: dict[str, float]
    decision: np.ndarray
    target: np.ndarray
    index: np.ndarray
    outputs: np.ndarray
    confusion: np.ndarray
    events: dict[str, np.ndarray] = field(default_factory=dict)


def evaluate(answer: Answer, batches: Iterable[Batch], task: Task) -> Evaluation:
    """Let a network answer every recording and reckon up.

    Metrics: those of the task; ``n`` recordings; ``accuracy_low`` and ``accuracy_high``, a 95 % Wilson interval;
    ``silent`` and ``ties``, fractions without an output event and without a strict winner (both count as wrong);
    ``synops`` and ``events``, mean per recording, in total and by layer (nothing of a layer that is not known, then no
    total); ``decision_ms``, the mean time to decision; ``dropped``, events that congestion dropped, mean per
    recording, in total and by layer, only if there were any; and the means of what the network tells besides.
    """
    outputs, targets, index, times, duration = [], [], [], [], []
    events: dict[str, list[np.ndarray]] = {}
    synops: dict[str, list[np.ndarray]] = {}
    extra: dict[str, list[np.ndarray]] = {}
    saturations: dict[str, int] = {}
    dropped: dict[str, int] = {}
    for batch in batches:
        real = batch.mask.numpy()
        a = answer(batch)
        outputs.append(a.counts.sum(axis=1)[real])
        targets.append(batch.target.numpy()[real])
        index.append(np.asarray(batch.index)[real])
        duration.append(_span_us(batch)[real])
        for into, values in ((events, a.events), (synops, a.synops), (extra, a.extra)):
            for name, value in values.items():
                into.setdefault(name, []).append(value[real])
        if a.decision_us is not None:
            times.append(a.decision_us[real])
        for totals, found in ((saturations, a.saturations), (dropped, a.dropped)):
            for name, value in (found or {}).items():
                totals[name] = totals.get(name, 0) + int(value[real].sum())
    out, target = np.concatenate(outputs), np.concatenate(targets)
    decision = task.decide(out)
    n = len(target)
    metrics = task.metrics(decision, target) | {"n": float(n)}
    if "accuracy" in metrics:
        metrics["accuracy_low"], metrics["accuracy_high"] = wilson(round(metrics["accuracy"] * n), n)
    silent = out.max(axis=1) <= 0 if events else np.zeros(n, bool)
    metrics["silent"] = float(silent.mean())
    metrics["ties"] = float(((decision < 0) & ~silent).mean())
    seconds = np.maximum(np.concatenate(duration), 1) * 1e-6
    for quantity, collected in (("events", events), ("synops", synops)):
        per_layer = {name: np.concatenate(parts) for name, parts in collected.items()}
        known = {name: value for name, value in per_layer.items() if not np.isnan(value).any()}
        if len(known) == len(per_layer):
            metrics[quantity] = float(sum(v.mean() for v in known.values()))
        for name, value in known.items():
            metrics[f"{quantity}/{name}"] = float(value.mean())
            if times:
                metrics[f"{quantity}_per_second/{name}"] = float((value / seconds).mean())
    metrics |= {name: float(np.concatenate(parts).mean()) for name, parts in extra.items()}
    for name, total in saturations.items():
        metrics[f"saturations/{name}"] = float(total)
    if any(dropped.values()):
        metrics |= {"dropped": sum(dropped.values()) / n} | {f"dropped/{k}": v / n for k, v in dropped.items()}
    if times:
        at = np.concatenate(times)
        decided = at[at >= 0]
        metrics["decision_ms"] = float(decided.mean() / 1000) if len(decided) else math.nan
    return Evaluation(
        metrics=metrics,
        decision=decision,
        target=target,
        index=np.concatenate(index),
        outputs=out,
        confusion=confusion_matrix(decision, target, out.shape[1]),
        events={name: np.concatenate(parts) for name, parts in events.items()},
    )


def _span_us(batch: Batch) -> np.ndarray:
    """How long each recording's bins are in all; 0 for samples. Shape (B,)."""
    return np.zeros(len(batch)) if batch.edges_us is None else batch.edges_us[:, -1] - batch.edges_us[:, 0]


def confusion_matrix(decision: np.ndarray, target: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts by true class (rows) and decision (columns); the last column is no decision. Shape (K, K + 1)."""
    matrix = np.zeros((n_classes, n_classes + 1), np.int64)
    np.add.at(matrix, (target, np.where(decision < 0, n_classes, decision)), 1)
    return matrix


def wilson(right: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """95 % interval of a fraction (Wilson 1927)."""
    p = right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


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
