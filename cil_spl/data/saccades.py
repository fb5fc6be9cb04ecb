"""The saccade simulator: still images become recordings of an event camera that looks away and back.

Orchard et al. (2015) showed MNIST digits on a screen to an ATIS camera on a pan-tilt unit, which made
three saccades of 100 ms along a triangle. Here the same in software. With the light L of the screen
(the image or its negative), its position d(t) on the sensor and the blur B of the optics, a pixel at x
sees

    v(x, t) = log( (B * L)(x - d(t)) + dark )

and emits ON (OFF) when v has risen (fallen) by the pixel's threshold since its last event, is then
blind for the refractory time, and starts again from what it sees at the end of it.

    G. Orchard, A. Jayawant, G. K. Cohen, N. Thakor, "Converting Static Image Datasets to Spiking
    Neuromorphic Datasets Using Saccades", Frontiers in Neuroscience 9:437, 2015.

What ``saccade_parameters.py`` holds by default was set once on event statistics of real training recordings
(experiments/saccade_realism), never on a network's accuracy.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit, prange
from scipy.interpolate import PchipInterpolator
from scipy.special import ndtr

from cil_spl.base.errors import RequestError
from cil_spl.data.events import EVENT
from cil_spl.data.saccade_parameters import Parameters

SENSOR_SIZE = (34, 34, 2)
_UP = 4  # grid points a sensor pixel on which the blurred log image is held
_CHUNK = 256  # recordings whose events are held in work arrays at once
_SACCADE_MS = 100.0
_WORK_EVENT = np.dtype([(name, EVENT[name]) for name in EVENT.names or ()], align=True)  # faster to write than packed


class _Scene(NamedTuple):
    """What all recordings of one call share, as the compiled code takes it."""

    path: np.ndarray  # position at each step, [steps + 1, 2], x and y
    smear_x: np.ndarray  # light of each image column at each grid column, [G, w]
    smear_y: np.ndarray
    margin: int  # grid around the sensor, pixels
    threshold: np.ndarray  # of each pixel, [2, H, W], OFF and ON
    path_jitter_px: float
    time_jitter_us: float
    negative: bool
    dark: float
    threshold_jitter: float
    start_spread: float
    refractory_us: float
    noise_on: float  # events a microsecond
    noise_off: float
    dt_us: float


def simulate(
    image: np.ndarray, seed: int, index: np.ndarray | None = None, parameters: Parameters | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Recordings of still images.

    Args:
        image: brightness from 0 (black) to 1 (white), float. Shape ``[N, h, w]``; the image's
            centre is the sensor's where the path is (0, 0), black all around.
        seed: seed of everything that differs between recordings.
        index: number of each image; with ``seed`` it names the recording's random numbers, so
            that a recording is the same in whatever company and on however many threads it is
            made. Shape ``[N]``, default 0..N-1.
        parameters: motion, optics and sensor.

    Returns:
        Events of all recordings one after another, dtype ``EVENT``, each recording sorted in time,
        and their offsets, int64, shape ``[N + 1]``.

    Raises:
        RequestError: brightness outside 0..1 or not finite, or a shape other than ``[N, h, w]``.
    """
    image = np.asarray(image)
    if image.ndim != 3:
        raise RequestError(f"images have shape {image.shape}; the simulator takes [N, h, w]")
    if image.size and not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise RequestError(f"image brightness runs from {image.min()} to {image.max()}; the simulator takes 0 to 1")
    image = np.ascontiguousarray(image, np.float32)
    index = np.arange(len(image), dtype=np.int64) if index is None else np.asarray(index, np.int64)
    scene = _scene(image.shape[1:], Parameters() if parameters is None else parameters)

    pieces = []
    counts = np.zeros(len(image), np.int64)
    capacity = 12_000
    for first in range(0, len(image), _CHUNK):
        part = slice(first, min(first + _CHUNK, len(image)))
        while True:
            work = np.empty((part.stop - part.start, capacity), _WORK_EVENT)
            _simulate(image[part], index[part], seed, scene, work, counts[part])
            if counts[part].max() <= capacity:
                break
            capacity = int(counts[part].max())
        pieces.append(np.concatenate([w[:n] for w, n in zip(work, counts[part], strict=True)]).astype(EVENT))
    offsets = np.zeros(len(image) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    events = np.empty(offsets[-1], EVENT)
    at = len(events)
    while pieces:  # given back one by one, so that the events are held once and not twice
        piece = pieces.pop()
        events[at - len(piece) : at] = piece
        at -= len(piece)
    return events, offsets


def _scene(shape: tuple[int, ...], par: Parameters) -> _Scene:
    steps = math.ceil(par.path_ms[-1] * 1000 / par.dt_us)
    t_ms = np.minimum(np.arange(steps + 1) * par.dt_us / 1000, par.path_ms[-1])
    path = np.stack([PchipInterpolator(par.path_ms, k)(t_ms) for k in (par.path_x_px, par.path_y_px)], axis=1)
    margin = math.ceil(np.abs(path).max() + 6 * par.path_jitter_px) + 1
    width, height, _ = SENSOR_SIZE
    spread = np.random.default_rng([par.sensor_seed, 34]).standard_normal((2, height, width))
    # A threshold far below the others would fire without end.
    threshold = np.maximum(1 + par.threshold_spread * spread, 0.3)
    threshold *= np.array([par.threshold_off, par.threshold_on])[:, None, None]
    return _Scene(
        path=path,
        smear_x=_smear(width, shape[1], margin, par),
        smear_y=_smear(height, shape[0], margin, par),
        margin=margin,
        threshold=threshold.astype(np.float32),
        path_jitter_px=float(par.path_jitter_px),
        time_jitter_us=par.time_jitter_ms * 1000.0,
        negative=bool(par.negative),
        dark=float(par.dark),
        threshold_jitter=float(par.threshold_jitter),
        start_spread=float(par.start_spread),
        refractory_us=float(par.refractory_us),
        noise_on=par.noise_on_hz * 1e-6,
        noise_off=par.noise_off_hz * 1e-6,
        dt_us=float(par.dt_us),
    )


def _smear(side: int, n: int, margin: int, par: Parameters) -> np.ndarray:
    """Light of each image pixel (a box on the screen) at each grid point, along one axis. Shape ``[G, n]``."""
    grid = np.arange((side + 2 * margin) * _UP + 2) / _UP - margin - (side - 1) / 2
    edges = (np.arange(n + 1) - n / 2) * par.pixel_pitch_px
    return np.diff(ndtr((edges[None, :] - grid[:, None]) / par.blur_px), axis=1).astype(np.float32)


@njit(parallel=True, cache=True)
def _simulate(
    image: np.ndarray, index: np.ndarray, seed: int, scene: _Scene, out: np.ndarray, counts: np.ndarray
) -> None:
    for n in prange(len(image)):
        counts[n] = _record(image[n], index[n], seed, scene, out[n])


@njit(cache=True)
def _record(image: np.ndarray, index: int, seed: int, scene: _Scene, out: np.ndarray) -> int:
    """One recording into ``out``; returns how many events it has, even where they do not fit."""
    path, margin, threshold, dt_us = scene.path, scene.margin, scene.threshold, scene.dt_us
    height, width = threshold.shape[1:]
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed)
    state[0] = _bits(state) ^ np.uint64(index)
    shift_x = min(max(_normal(state), -6.0), 6.0) * scene.path_jitter_px
    shift_y = min(max(_normal(state), -6.0), 6.0) * scene.path_jitter_px
    late = np.empty(int(len(path) * dt_us / (_SACCADE_MS * 1000)) + 3)  # of each saccade, steps
    for s in range(len(late)):
        late[s] = _normal(state) * scene.time_jitter_us / dt_us
    late[0] = 0
    light = _light(image, scene)

    v = np.empty((height, width), np.float32)  # log light at the end of the last step
    reference = np.empty((height, width), np.float32)  # log light at the last event
    off, on = threshold[0].copy(), threshold[1].copy()  # as they are until the next event
    blind = np.zeros((height, width))  # until when
    noise = np.full((height, width), np.inf)  # when the next event without cause falls
    noise_rate = scene.noise_on + scene.noise_off
    if noise_rate > 0:
        for y in range(height):
            for x in range(width):
                noise[y, x] = -math.log(_uniform(state)) / noise_rate

    count = 0
    for step in range(len(path)):
        # A saccade's lateness holds at its middle and passes into the next one's.
        between = max(step * dt_us / (_SACCADE_MS * 1000) - 0.5, 0.0)
        s = int(between)
        at = step - late[s] * (1 + s - between) - late[s + 1] * (between - s)
        at = min(max(at, 0.0), len(path) - 1.0)
        k = min(int(at), len(path) - 2)
        # Where on the grid the sensor's first pixel lies; all pixels share the fractions.
        grid_x = (margin - shift_x - path[k, 0] * (1 + k - at) - path[k + 1, 0] * (at - k)) * _UP
        grid_y = (margin - shift_y - path[k, 1] * (1 + k - at) - path[k + 1, 1] * (at - k)) * _UP
        i0, j0 = math.floor(grid_x), math.floor(grid_y)
        fx, fy = np.float32(grid_x - i0), np.float32(grid_y - j0)
        one = np.float32(1)
        w00, w01, w10, w11 = (one - fy) * (one - fx), (one - fy) * fx, fy * (one - fx), fy * fx
        t0, t1 = (step - 1) * dt_us, step * dt_us
        first = count  # event of this step
        for y in range(height):
            row0, row1 = light[j0 + _UP * y], light[j0 + _UP * y + 1]
            for x in range(width):
                i = i0 + _UP * x
                v1 = w00 * row0[i] + w01 * row0[i + 1] + w10 * row1[i] + w11 * row1[i + 1]
                v0 = v[y, x]
                v[y, x] = v1
                if step == 0:
                    ahead = on[y, x] - _uniform(state) * (on[y, x] + off[y, x])
                    reference[y, x] = v1 - scene.start_spread * ahead
                    continue
                change = v1 - reference[y, x]
                if noise[y, x] > t1 and (blind[y, x] > t1 or (blind[y, x] <= t0 and -off[y, x] < change < on[y, x])):
                    continue  # nothing can happen: the common case, decided quickly
                t = t0
                while True:
                    if blind[y, x] > t:
                        if blind[y, x] > t1:
                            break
                        t = blind[y, x]
                        reference[y, x] = v0 + (v1 - v0) * (t - t0) / dt_us
                    change = v1 - reference[y, x]
                    polarity, level, crossing = -1, v1, np.inf
                    if change >= on[y, x]:
                        polarity, level = 1, reference[y, x] + on[y, x]
                    elif change <= -off[y, x]:
                        polarity, level = 0, reference[y, x] - off[y, x]
                    if polarity >= 0:
                        crossing = t1 if v1 == v0 else t0 + (level - v0) / (v1 - v0) * dt_us
                        crossing = min(max(crossing, t), t1)
                    if noise[y, x] <= min(crossing, t1):
                        crossing = max(noise[y, x], t)
                        level = v0 + (v1 - v0) * (crossing - t0) / dt_us
                        polarity = 1 if _uniform(state) * noise_rate < scene.noise_on else 0
                        noise[y, x] = crossing - math.log(_uniform(state)) / noise_rate
                    elif polarity < 0:
                        break
                    t = crossing
                    reference[y, x] = level
                    blind[y, x] = t + scene.refractory_us
                    if scene.threshold_jitter > 0:
                        on[y, x] = threshold[1, y, x] * max(1 + scene.threshold_jitter * _normal(state), 0.3)
                        off[y, x] = threshold[0, y, x] * max(1 + scene.threshold_jitter * _normal(state), 0.3)
                    if count < len(out):
                        _insert(out, first, count, x, y, int(t), polarity)
                    count += 1
    return count


@njit(cache=True)
def _insert(out: np.ndarray, first: int, count: int, x: int, y: int, t: int, p: int) -> None:
    """Put an event among ``out[first:count]``, after those of the same time; a step holds few."""
    j = count
    while j > first and out[j - 1].t > t:
        out[j].x, out[j].y, out[j].t, out[j].p = out[j - 1].x, out[j - 1].y, out[j - 1].t, out[j - 1].p
        j -= 1
    out[j].x, out[j].y, out[j].t, out[j].p = x, y, t, p


@njit(cache=True)
def _light(image: np.ndarray, scene: _Scene) -> np.ndarray:
    """The blurred log light on the grid."""
    smear_x, smear_y = scene.smear_x, scene.smear_y
    h, w = image.shape
    rows = np.zeros((len(smear_y), w), np.float32)
    for j in range(len(smear_y)):
        for y in range(h):
            if smear_y[j, y] > 1e-7:
                for x in range(w):
                    rows[j, x] += smear_y[j, y] * image[y, x]
    light = np.empty((len(smear_y), len(smear_x)), np.float32)
    for i in range(len(smear_x)):
        reach = np.flatnonzero(smear_x[i] > 1e-7)
        first, stop = (reach[0], reach[-1] + 1) if len(reach) else (0, 0)
        for j in range(len(smear_y)):
            bright = np.float32(0)
            for x in range(first, stop):
                bright += smear_x[i, x] * rows[j, x]
            light[j, i] = math.log((1 - bright if scene.negative else bright) + scene.dark)
    return light


@njit(cache=True)
def _bits(state: np.ndarray) -> int:
    """Next 64 random bits (splitmix64)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True)
def _uniform(state: np.ndarray) -> float:
    """In (0, 1)."""
    return (float(_bits(state) >> np.uint64(12)) + 0.5) / 4503599627370496.0


@njit(cache=True)
def _normal(state: np.ndarray) -> float:
    return math.sqrt(-2 * math.log(_uniform(state))) * math.cos(2 * math.pi * _uniform(state))
