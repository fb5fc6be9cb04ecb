"""The chip in plain Python: slow, and as near to the words of the specification as can be."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from networks import joined

from cil_spl.chip.die import Die
from cil_spl.chip.network import ChipNetwork
from cil_spl.chip.simulator import ChipAnswer
from cil_spl.chip.simulator import simulate as fast

WORD = (1 << 64) - 1


@dataclass
class Answer:
    """events: per layer a list of (t, y, x, feature); states: per layer an int array [f, y, x] at each bin's end."""

    events: list[list[tuple[int, int, int, int]]]
    synops: list[int]
    saturations: list[int]
    dropped: list[int]
    counts: np.ndarray
    layer_counts: list[np.ndarray]
    states: list[list[np.ndarray]] = field(default_factory=list)


class Chance:
    """A stream of random numbers (splitmix64) for one die, effect, layer and recording."""

    def __init__(self, *seeds: int) -> None:
        self.state = seeds[0]
        for seed in seeds[1:]:
            self.state = self.draw() ^ seed
        self.draw()

    def draw(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & WORD
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        return z ^ (z >> 31)

    def uniform(self) -> float:
        return (self.draw() >> 11) / 2.0**53


def run(network: ChipNetwork, events: Any, edges_us: Any = (0, 1), die: Die | None = None) -> Answer:
    """One recording, depth first; what a die holds up waits in a queue by time, then by turn."""
    n, bins, die = len(network.layers), len(edges_us) - 1, die or Die()
    names = [layer.name for layer in network.layers]
    rate, fifo, decimate, leak = (
        die.by_layer(s, names) for s in ("synops_per_second", "fifo", "decimate", "leak")
    )  # fmt: skip
    states = [np.full(layer.output_shape, layer.v_init, np.int64) for layer in network.layers]
    thresholds = [np.full(layer.output_shape, layer.threshold) for layer in network.layers]
    if die.threshold_spread or die.dead or die.stuck:
        for k, layer in enumerate(network.layers):
            f, height, width = layer.output_shape
            thresholds[k] = die.thresholds(k, layer.threshold, (height, width, f)).transpose(2, 0, 1)
    answer = Answer(
        [[] for _ in range(n)],
        [0] * n,
        [0] * n,
        [0] * n,
        np.zeros((bins, network.n_classes), np.int64),
        [np.zeros((bins, *layer.output_shape), np.int64) for layer in network.layers],
    )
    channels, height, width = network.input_shape
    sensor = []
    for event in events:
        x, y, t, p = (int(event[name]) for name in ("x", "y", "t", "p"))
        p = 0 if channels == 1 else p
        if 0 <= p < channels and 0 <= y < height and 0 <= x < width:
            sensor.append((t, p, y, x))
    identity = 14695981039346656037
    for t, p, y, x in sensor:
        for value in ((y * width + x) * channels + p, t):
            identity = ((identity ^ (value & WORD)) * 1099511628211) & WORD
    chance = [[Chance(identity, die.seed, effect, k) for k in range(n)] for effect in range(4)]
    lost, jitter, reorder, _ = chance
    passed = [((c.draw() >> 32) * d) >> 32 for c, d in zip(chance[3], decimate, strict=True)]
    queue: list[tuple[int, int, Callable[[], None]]] = []
    waiting, free_ns, turn, now = [0] * n, [-math.inf] * n, 0, 0

    def later(when: float, what: Callable[[], None]) -> None:
        nonlocal turn
        heapq.heappush(queue, (int(when), turn, what))
        turn += 1

    def bin_of(t: int) -> int:
        return sum(1 for edge in edges_us[1:-1] if t >= edge)

    def send(k: int, c: int, y: int, x: int) -> None:
        reached = under_kernel(k, c, y, x)
        if not reached:
            return
        if die.lost and lost[k].uniform() < die.lost:
            return
        delay = 0
        if die.jitter_us:
            delay += int(-die.jitter_us * 1000.0 * math.log(1.0 - jitter[k].uniform()))
        if die.reorder_us:
            delay += int(die.reorder_us * 1000.0 * reorder[k].uniform())
        if delay:
            later(now + delay, lambda: arrive(k, c, reached))
        else:
            arrive(k, c, reached)

    def arrive(k: int, c: int, reached: list[tuple[int, int, int, int]]) -> None:
        if rate[k] is None:
            handle(k, c, reached)
            return
        busy = waiting[k] > 0 or free_ns[k] > now
        if busy and waiting[k] == fifo[k]:
            answer.dropped[k] += 1
            return
        begin = max(free_ns[k], now)
        features = network.layers[k].output_shape[0]
        free_ns[k] = begin + len(reached) * features * 10**9 // int(rate[k])
        if not busy:
            handle(k, c, reached)
            return
        waiting[k] += 1

        def take_up() -> None:
            waiting[k] -= 1
            handle(k, c, reached)

        later(begin, take_up)

    def under_kernel(k: int, c: int, y: int, x: int) -> list[tuple[int, int, int, int]]:
        """(output y, output x, kernel y, kernel x) of what an event reaches."""
        layer = network.layers[k]
        channels, height, width = layer.input_shape
        if not (0 <= c < channels and 0 <= y < height and 0 <= x < width):
            return []
        _, out_height, out_width = layer.output_shape
        _, _, ky, kx = layer.weight.shape
        found = []
        for oy in range(out_height):
            for ox in range(out_width):
                i = y + layer.padding[0] - oy * layer.stride[0]
                j = x + layer.padding[1] - ox * layer.stride[1]
                if 0 <= i < ky and 0 <= j < kx:
                    found.append((oy, ox, i, j))
        return found

    def handle(k: int, c: int, reached: list[tuple[int, int, int, int]]) -> None:
        layer = network.layers[k]
        fired = []
        for oy, ox, i, j in reached:
            for f in range(layer.output_shape[0]):
                answer.synops[k] += 1
                if add(k, f, oy, ox, int(layer.weight[f, c, i, j])):
                    fired.append((oy, ox, f))
        for oy, ox, f in fired:
            leave(k, f, oy, ox)

    def add(k: int, f: int, y: int, x: int, what: int) -> bool:
        """A neuron takes a weight or a leak; whether it fires."""
        layer, threshold = network.layers[k], int(thresholds[k][f, y, x])
        v = int(states[k][f, y, x]) + what
        if not -32768 <= v <= 32767:
            answer.saturations[k] += 1
            v = max(-32768, min(32767, v))
        if v < layer.min_v_mem:
            v = layer.min_v_mem
        fires = v >= threshold
        if fires:
            v = v - max(threshold, 0) if layer.reset == "subtract" else 0
        states[k][f, y, x] = v
        return fires

    def tick(k: int) -> None:
        f, height, width = network.layers[k].output_shape
        places = [(y, x, g) for y in range(height) for x in range(width) for g in range(f)]
        fired = [(y, x, g) for y, x, g in places if add(k, g, y, x, leak[k])]
        for y, x, g in fired:
            leave(k, g, y, x)

    def leave(k: int, f: int, y: int, x: int) -> None:
        passed[k] += 1
        if passed[k] < decimate[k]:
            return
        passed[k] = 0
        layer, t = network.layers[k], min(now // 1000, 2**31 - 1)
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
                send(destination.layer, f + destination.feature_shift, y // py, x // px)

    def order(k: int) -> int:
        core = network.layers[k].core
        return k if core is None else core

    ticks = []
    if any(leak) and sensor:
        period = round(die.leak_period_us * 1000) if die.leak_period_us else 0
        ticks = list(range(sensor[0][0] * 1000 + period, sensor[-1][0] * 1000 + 1, period))
    t_bin = 0
    while ticks or queue or sensor:
        comes = [(ticks[0], 0)] if ticks else []
        comes += [(queue[0][0], 1)] if queue else []
        comes += [(sensor[0][0] * 1000, 2)] if sensor else []
        now, kind = min(comes)
        while t_bin < bin_of(now // 1000):
            answer.states.append([s.copy() for s in states])
            t_bin += 1
        if kind == 0:
            ticks.pop(0)
            for k in range(n):
                if leak[k]:
                    tick(k)
        elif kind == 1:
            heapq.heappop(queue)[2]()
        else:
            _, p, y, x = sensor.pop(0)
            send(0, p, y, x)
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


def assert_same(
    network: ChipNetwork, recordings: list[np.ndarray], edges_us: np.ndarray, die: Die | None = None
) -> ChipAnswer:
    """The compiled simulator's answer, which is this one's in all that it tells, recording by recording."""
    events, offsets = joined(recordings)
    answer = fast(network, events, offsets, edges_us, record=("counts", "v_mem", "events", "output"), die=die)
    assert answer.layer_events is not None
    assert answer.layer_counts is not None
    assert answer.layer_v_mem is not None
    assert answer.output is not None
    for b, one in enumerate(recordings):
        slow = run(network, one, edges_us[b], die)
        for k in range(len(network.layers)):
            found = answer.layer_events[k]
            mine = found.events[found.offsets[b] : found.offsets[b + 1]]
            assert [tuple(e) for e in mine[["t", "y", "x", "f"]].tolist()] == slow.events[k]
            np.testing.assert_array_equal(answer.layer_counts[k][b], slow.layer_counts[k])
            for t, states in enumerate(slow.states):
                np.testing.assert_array_equal(answer.layer_v_mem[k][b, t], states[k])
        assert answer.events_per_layer[b].tolist() == [len(e) for e in slow.events]
        assert answer.synops[b].tolist() == slow.synops
        assert answer.saturations[b].tolist() == slow.saturations
        assert answer.dropped[b].tolist() == slow.dropped
        np.testing.assert_array_equal(answer.counts[b], slow.counts)
        out = answer.output
        times, classes = (a[out.offsets[b] : out.offsets[b + 1]].tolist() for a in (out.t, out.k))
        assert len(times) == len(slow.events[-1])
        assert answer.decision_us[b] == decision_us(list(zip(times, classes, strict=True)))
    return answer
