"""The chip in plain Python: slow, and as near to the words of the specification as can be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cil_spl.chip.network import ChipNetwork


@dataclass
class Answer:
    """events: per layer a list of (t, y, x, feature); states: per layer an int array [f, y, x] at each bin's end."""

    events: list[list[tuple[int, int, int, int]]]
    synops: list[int]
    saturations: list[int]
    counts: np.ndarray
    layer_counts: list[np.ndarray]
    states: list[list[np.ndarray]] = field(default_factory=list)


def run(network: ChipNetwork, events: Any, edges_us: Any = (0, 1)) -> Answer:
    """One recording, depth first."""
    n, bins = len(network.layers), len(edges_us) - 1
    states = [np.zeros(layer.output_shape, np.int64) for layer in network.layers]
    answer = Answer(
        [[] for _ in range(n)],
        [0] * n,
        [0] * n,
        np.zeros((bins, network.n_classes), np.int64),
        [np.zeros((bins, *layer.output_shape), np.int64) for layer in network.layers],
    )

    def bin_of(t: int) -> int:
        return sum(1 for edge in edges_us[1:-1] if t >= edge)

    def arrive(k: int, c: int, y: int, x: int, t: int) -> None:
        layer = network.layers[k]
        channels, height, width = layer.input_shape
        if not (0 <= c < channels and 0 <= y < height and 0 <= x < width):
            return
        features, out_height, out_width = layer.output_shape
        _, _, ky, kx = layer.weight.shape
        fired = []
        for oy in range(out_height):
            for ox in range(out_width):
                i = y + layer.padding[0] - oy * layer.stride[0]
                j = x + layer.padding[1] - ox * layer.stride[1]
                if not (0 <= i < ky and 0 <= j < kx):
                    continue
                for f in range(features):
                    v = int(states[k][f, oy, ox]) + int(layer.weight[f, c, i, j])
                    answer.synops[k] += 1
                    if not -32768 <= v <= 32767:
                        answer.saturations[k] += 1
                        v = max(-32768, min(32767, v))
                    if v < layer.min_v_mem:
                        v = layer.min_v_mem
                    if v >= layer.threshold:
                        fired.append((oy, ox, f))
                        v = v - layer.threshold if layer.reset == "subtract" else 0
                    states[k][f, oy, ox] = v
        for oy, ox, f in fired:
            leave(k, f, oy, ox, t)

    def leave(k: int, f: int, y: int, x: int, t: int) -> None:
        layer = network.layers[k]
        answer.events[k].append((t, y, x, f))
        answer.layer_counts[k][bin_of(t), f, y, x] += 1
        if k == n - 1:
            if network.readout is None:
                _, height, width = layer.output_shape
                answer.counts[bin_of(t), (f * height + y) * width + x] += 1
            else:
                answer.counts[bin_of(t), network.readout.index(f)] += 1
        for destination in sorted(layer.destinations, key=lambda d: order(d.layer)):
            _, height, width = layer.output_shape
            py, px = destination.pool
            if y // py < height // py and x // px < width // px:
                arrive(destination.layer, f + destination.feature_shift, y // py, x // px, t)

    def order(k: int) -> int:
        core = network.layers[k].core
        return k if core is None else core

    t_bin = 0
    for event in events:
        x, y, t, p = (int(event[name]) for name in ("x", "y", "t", "p"))
        while t_bin < bin_of(t):
            answer.states.append([s.copy() for s in states])
            t_bin += 1
        arrive(0, 0 if network.input_shape[0] == 1 else p, y, x, t)
    while t_bin < bins:
        answer.states.append([s.copy() for s in states])
        t_bin += 1
    return answer


def decision_us(events: list[tuple[int, int]]) -> int:
    """Time from which the class with strictly most of the (t, class) events leads for good; -1 without one."""
    votes: dict[int, int] = {}
    leaders = []
    for _, k in events:
        votes[k] = votes.get(k, 0) + 1
        best = [name for name, n in votes.items() if n == max(votes.values())]
        leaders.append(best[0] if len(best) == 1 else None)
    if not leaders or leaders[-1] is None:
        return -1
    at = len(leaders)
    while at > 0 and leaders[at - 1] == leaders[-1]:
        at -= 1
    return events[at][0]
