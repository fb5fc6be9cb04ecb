"""A chain of integer layers under rules that lie between time steps and the chip: where the two part, rule by rule.

    time steps (STEPS): a bin's input is added up;  s = floor(v / theta) spikes;  v ← max(v - s theta, v_min)
    chip (CHIP):        for each event  v ← max(v + w, v_min);  one spike where v >= theta;  v ← v - theta

The two differ in four answers, the fields of :class:`Rule`. Layer follows layer and, within a layer, bin follows bin,
so that every mixture of the answers can be run; with all four as on the chip the result is the chip's, spike for spike.
Written to be read, not for speed: :mod:`cil_spl.chip.simulator` is the fast one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.chip.network import ChipLayer, ChipNetwork

TOP, BOTTOM = 32767, -32768
ALL = 1 << 30  # no limit


@dataclass(frozen=True)
class Rule:
    """How a layer treats the input events of a time bin.

    Attributes:
        clip_each: the state is clipped (below at v_min, above at 16 bits) after every input event; else from below,
            at the end of a bin.
        fire_each: a neuron may fire at every input event; else only at the end of a bin.
        most: spikes that a neuron sends at most when it fires.
        ordered: the events of a bin come one after another as they were made; else in an order drawn at random, in
            every layer anew (in time steps a bin is a count, which has no order).
        keep_edges: events of an odd map's edge go to the last pooling window; else they are dropped, as on the
            simulated chip and in time steps alike.
    """

    clip_each: bool = False
    fire_each: bool = False
    most: int = ALL
    ordered: bool = False
    keep_edges: bool = False


STEPS = Rule()
CHIP = Rule(clip_each=True, fire_each=True, most=1, ordered=True)


def counts(
    network: ChipNetwork,
    events: np.ndarray,
    offsets: np.ndarray,
    edges_us: np.ndarray,
    rule: Rule,
    seed: Sequence[int] = (0,),
) -> list[np.ndarray]:
    """Spikes of every neuron over whole recordings.

    Args:
        network: a chain.
        events, offsets, edges_us: as for :func:`cil_spl.chip.simulator.simulate`.
        seed: of the order where it is drawn; recording and layer are added to it.

    Returns:
        for each layer int64 ``[B, f, y, x]``, before pooling.

    Raises:
        RequestError: the network has branches.
    """
    if network.branch is not None:
        raise RequestError(
            f"layer {network.branch.name}: only a chain of layers can be run by other rules than the chip's"
        )
    found = [np.zeros((len(offsets) - 1, *layer.output_shape), np.int64) for layer in network.layers]
    for b in range(len(offsets) - 1):
        source, ends = _sensor(network, events[offsets[b] : offsets[b + 1]], edges_us[b])
        shape, pool, shift = network.input_shape, (1, 1), 0
        for k, layer in enumerate(network.layers):
            drawn = int(np.random.SeedSequence([*seed, b, k]).generate_state(1)[0])
            source, ends = _run_layer(layer, source, ends, shape, pool, shift, rule, drawn)
            f, height, width = shape = layer.output_shape
            by_neuron = np.bincount(source, minlength=f * height * width)
            found[k][b] = by_neuron.reshape(height, width, f).transpose(2, 0, 1)  # y x f -> f y x
            for destination in layer.destinations:
                pool, shift = destination.pool, destination.feature_shift
    return found


def output_counts(network: ChipNetwork, last: np.ndarray) -> np.ndarray:
    """Spikes of the last layer by class. Shape (B, f, y, x) → (B, K)."""
    if network.readout is not None:
        return last[:, list(network.readout), 0, 0]
    return last.reshape(len(last), -1)


def _sensor(network: ChipNetwork, events: np.ndarray, edges_us: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Events on the input map as numbers of (y, x, c), and where each bin ends among them."""
    c, height, width = network.input_shape
    x, y, p = (events[name].astype(np.int64) for name in ("x", "y", "p"))
    channel = np.zeros_like(p) if c == 1 else p
    on = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (channel >= 0) & (channel < c)
    number = ((y * width + x) * c + channel)[on]
    inner = np.searchsorted(events["t"][on], edges_us[1:-1], side="left")
    return number, np.concatenate([[0], inner, [len(number)]]).astype(np.int64)


def _run_layer(
    layer: ChipLayer,
    source: np.ndarray,
    ends: np.ndarray,
    shape: tuple[int, int, int],
    pool: tuple[int, int],
    shift: int,
    rule: Rule,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Spikes of a layer as numbers of (y, x, f), and where each bin ends among them."""
    weight = np.ascontiguousarray(layer.weight.transpose(1, 2, 3, 0)).astype(np.int32)  # f c ky kx -> c ky kx f
    numbers = (layer.threshold, layer.min_v_mem, layer.v_init, layer.reset == "zero")
    answers = (rule.clip_each, rule.fire_each, rule.most, rule.ordered, rule.keep_edges)
    maps = (np.array(shape), np.array(layer.input_shape), np.array(layer.output_shape))
    spikes, ends, n = _layer(
        source, ends, *maps, np.array(pool), shift, weight, np.array(layer.stride), np.array(layer.padding), *numbers,
        *answers, seed,
    )  # fmt: skip
    return spikes[:n], ends


@numba.njit(cache=True, nogil=True)
def _layer(  # type: ignore[no-untyped-def]
    source, starts, source_shape, input_shape, output_shape, pool, shift, weight, stride, padding, threshold, low,
    init, to_zero, clip_each, fire_each, most, ordered, keep_edges, seed,
):  # fmt: skip
    features, height, width = output_shape
    channels, map_height, map_width = input_shape
    _, kernel_y, kernel_x, _ = weight.shape
    v = np.full(height * width * features, init, np.int32)  # y x f
    fires = np.zeros(len(v), np.int64)
    spikes, n = np.empty(1024, np.int64), 0
    ends = np.zeros_like(starts)
    top, bottom = np.int32(TOP if clip_each else ALL), np.int32(max(low, BOTTOM) if clip_each else -ALL)
    np.random.seed(seed)  # noqa: NPY002  (numba's own generator)
    for t in range(len(starts) - 1):
        here = source[starts[t] : starts[t + 1]].copy()
        if not ordered:
            np.random.shuffle(here)  # noqa: NPY002
        for number in here:
            place, c = divmod(number, source_shape[0])
            y, x = divmod(place, source_shape[2])
            y, x, c = y // pool[0], x // pool[1], c + shift
            if keep_edges:
                y, x = min(y, map_height - 1), min(x, map_width - 1)
            if y >= map_height or x >= map_width or c >= channels:
                continue
            y, x, m = y + padding[0], x + padding[1], 0
            for oy in range(max(-((kernel_y - 1 - y) // stride[0]), 0), min(y // stride[0], height - 1) + 1):
                for ox in range(max(-((kernel_x - 1 - x) // stride[1]), 0), min(x // stride[1], width - 1) + 1):
                    at = (oy * width + ox) * features
                    here_v, w = v[at : at + features], weight[c, y - oy * stride[0], x - ox * stride[1]]
                    for f in range(features):
                        here_v[f] = max(min(here_v[f] + w[f], top), bottom)
                    if fire_each:
                        m = _at_threshold(here_v, at, threshold, fires, m)
            if m:
                spikes, n = _fire(v, fires, m, threshold, most, to_zero, spikes, n)
        if not fire_each:
            m = _at_threshold(v, 0, threshold, fires, 0)
            spikes, n = _fire(v, fires, m, threshold, most, to_zero, spikes, n)
        if not clip_each:
            for i in range(len(v)):
                v[i] = max(v[i], np.int32(low))
        ends[t + 1] = n
    return spikes, ends, n


@numba.njit(cache=True, nogil=True)
def _at_threshold(v, at, threshold, fires, m):  # type: ignore[no-untyped-def]
    """Note the neurons that fire, of those from ``at`` on, after the ``m`` that are noted."""
    for i in range(len(v)):
        if v[i] >= threshold:
            fires[m] = at + i
            m += 1
    return m


@numba.njit(cache=True, nogil=True)
def _fire(v, fires, m, threshold, most, to_zero, spikes, n):  # type: ignore[no-untyped-def]
    """Let the first ``m`` of ``fires`` fire; their spikes come after the ``n`` that there are."""
    for i in fires[:m]:
        s = min(v[i] // threshold, most)
        v[i] = 0 if to_zero else v[i] - s * threshold
        if n + s > len(spikes):
            wider = np.empty(2 * (n + s), np.int64)
            wider[:n] = spikes[:n]
            spikes = wider
        spikes[n : n + s] = i
        n += s
    return spikes, n
