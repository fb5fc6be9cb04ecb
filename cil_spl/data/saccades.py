"""The saccade simulator: still images become recordings of an event camera that looks away and back.

Orchard et al. (2015) showed MNIST digits on a screen to an ATIS camera on a pan-tilt unit, which made
three saccades of 100 ms along a triangle. Here the same in software. With the image I (0..1), its
position d(t) on the sensor, and the blur B of optics and photodiode, a pixel at x sees

    v(x, t) = log( (B * I)(x - d(t)) + dark ),        tau dv'/dt = v - v'

and emits ON (OFF) when v' has risen (fallen) by the pixel's threshold since its last event, is then
blind for the refractory time, and starts again from what it sees at the end of it.

    G. Orchard, A. Jayawant, G. K. Cohen, N. Thakor, "Converting Static Image Datasets to Spiking
    Neuromorphic Datasets Using Saccades", Frontiers in Neuroscience 9:437, 2015.

What ``Parameters`` holds by default was set once on event statistics of real training recordings
(experiments/saccade_realism), never on a network's accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numba import njit, prange

from cil_spl.data.events import EVENT
from cil_spl.errors import RequestError

SENSOR_SIZE = (34, 34, 2)
_UP = 4  # grid points a sensor pixel on which the blurred log image is held
_CHUNK = 256  # images whose events are held in work arrays at once


@dataclass(frozen=True)
class Parameters:
    """What the simulator can be told. Pixels are sensor pixels, x to the right and y down.

    Attributes:
        path_ms, path_x_px, path_y_px: knots of the image's motion on the sensor; between them
            monotone cubic (no overshoot). The recording lasts from 0 to the last knot.
        path_jitter_px: standard deviation of a recording's constant shift, each axis.
        time_jitter_ms: standard deviation of the moment at which a recording's motion starts.
        pixel_pitch_px: side of an image pixel on the sensor.
        blur_px: standard deviation of the optics' Gaussian blur.
        dark: light of a black screen, where a white one has 1.
        tau_us: time constant of the photoreceptor's low-pass.
        threshold_on, threshold_off: change of log intensity that makes an event.
        threshold_spread: standard deviation between the pixels of a sensor, relative.
        threshold_jitter: standard deviation from event to event in one pixel, relative.
        refractory_us: time after an event during which a pixel is blind.
        noise_hz: rate of events without cause in each pixel, half of them ON.
        sensor_seed: draws the thresholds of the sensor's pixels.
        dt_us: step of the motion; within a step the log intensity runs straight, and events
            have the exact time of the crossing.
    """

    path_ms: tuple[float, ...] = (
        0, 15, 25, 35, 45, 55, 65, 75, 85, 105, 120, 135, 145, 155, 165, 175, 190, 215, 228, 245, 255, 265, 275, 285,
        295, 310,
    )  # fmt: skip
    path_x_px: tuple[float, ...] = (
        -2.6, -2.6, -2.6, -2.6, -2.5, -2.1, -1.6, -1.2, -1.0, -0.9, -0.5, 0.2, 0.9, 1.4, 1.7, 2.0, 2.3, 2.7, 2.7, 1.6,
        0.6, -0.4, -1.2, -1.9, -2.3, -2.5,
    )  # fmt: skip
    path_y_px: tuple[float, ...] = (
        -2.0, -1.7, -1.0, -0.1, 1.0, 2.1, 3.0, 3.5, 3.6, 3.6, 3.5, 3.0, 1.9, 0.7, -0.4, -1.1, -1.5, -1.6, -1.6, -1.6,
        -1.7, -1.7, -1.8, -1.8, -1.9, -1.9,
    )  # fmt: skip
    path_jitter_px: float = 0.2
    time_jitter_ms: float = 1.0
    pixel_pitch_px: float = 0.95
    blur_px: float = 0.7
    dark: float = 0.1
    tau_us: float = 1000.0
    threshold_on: float = 0.3
    threshold_off: float = 0.3
    threshold_spread: float = 0.1
    threshold_jitter: float = 0.1
    refractory_us: float = 5000.0
    noise_hz: float = 0.3
    sensor_seed: int = 0
    dt_us: float = 1000.0

    def __post_init__(self) -> None:
        knots = [np.asarray(k, float) for k in (self.path_ms, self.path_x_px, self.path_y_px)]
        if len({len(k) for k in knots}) != 1 or len(knots[0]) < 2 or not all(np.isfinite(k).all() for k in knots):
            raise RequestError(
                "simulator.path_ms, path_x_px and path_y_px need the same number of knots, at least 2, all finite; "
                f"they have {', '.join(str(len(k)) for k in knots)}"
            )
        if knots[0][0] != 0 or (np.diff(knots[0]) <= 0).any() or knots[0][-1] > 10_000:
            raise RequestError(f"simulator.path_ms={self.path_ms} must start at 0, rise, and end by 10000")
        positive = {"pixel_pitch_px", "blur_px", "dark", "threshold_on", "threshold_off", "dt_us"}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("path_") and field.name != "path_jitter_px":
                continue
            if not np.isfinite(value) or value < 0 or (field.name in positive and value == 0):
                bound = "above 0" if field.name in positive else "at least 0"
                raise RequestError(f"simulator.{field.name}={value} must be a finite number, {bound}")


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
    par = Parameters() if parameters is None else parameters
    image = np.asarray(image)
    if image.ndim != 3:
        raise RequestError(f"images have shape {image.shape}; the simulator takes [N, h, w]")
    if image.size and not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
        raise RequestError(f"image brightness runs from {image.min()} to {image.max()}; the simulator takes 0 to 1")
    image = np.ascontiguousarray(image, np.float32)
    index = np.arange(len(image), dtype=np.int64) if index is None else np.asarray(index, np.int64)

    path = _path(par)
    margin = math.ceil(np.abs(path).max() + 6 * par.path_jitter_px) + 1
    width, height, _ = SENSOR_SIZE
    smear_x, smear_y = (_smear(side, n, margin, par) for side, n in ((width, image.shape[2]), (height, image.shape[1])))
    spread = np.random.default_rng([par.sensor_seed, 34]).standard_normal((2, height, width))
    # A threshold far below the others would fire without end.
    threshold = np.maximum(1 + par.threshold_spread * spread, 0.3)
    threshold *= np.array([par.threshold_off, par.threshold_on])[:, None, None]
    sensor = (
        threshold.astype(np.float32),
        np.array([par.path_jitter_px, par.time_jitter_ms * 1000, par.threshold_jitter, par.noise_hz * 1e-6]),
        1.0 if par.tau_us == 0 else -math.expm1(-par.dt_us / par.tau_us),
        par.refractory_us,
        par.dt_us,
        par.dark,
    )

    pieces = []
    counts = np.zeros(len(image), np.int64)
    capacity = 12_000
    for first in range(0, len(image), _CHUNK):
        part = slice(first, min(first + _CHUNK, len(image)))
        while True:
            work = np.empty((part.stop - part.start, capacity), EVENT_ALIGNED)
            _simulate(image[part], index[part], seed, path, smear_x, smear_y, margin, *sensor, work, counts[part])
            if counts[part].max(initial=0) <= capacity:
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


# Numba writes aligned records faster than packed ones.
EVENT_ALIGNED = np.dtype([(name, EVENT[name]) for name in EVENT.names or ()], align=True)


def from_config(parameters: Mapping[str, Any] | None) -> Parameters:
    """Parameters from a config's mapping; what it does not name keeps its default.

    Raises:
        RequestError: a name that the simulator does not have, or a value out of range.
    """
    given = dict(parameters or {})
    allowed = [field.name for field in fields(Parameters)]
    for key, value in given.items():
        if key not in allowed:
            raise RequestError(f"simulator.{key}={value} is not a parameter of the simulator; it has {allowed}")
        if key in ("path_ms", "path_x_px", "path_y_px"):
            given[key] = tuple(float(v) for v in value)
    return Parameters(**given)


def _path(par: Parameters) -> np.ndarray:
    """Position of the image at each step, pixels. Shape ``[steps + 1, 2]``, x and y."""
    from scipy.interpolate import PchipInterpolator

    steps = math.ceil(par.path_ms[-1] * 1000 / par.dt_us)
    t_ms = np.minimum(np.arange(steps + 1) * par.dt_us / 1000, par.path_ms[-1])
    return np.stack([PchipInterpolator(par.path_ms, k)(t_ms) for k in (par.path_x_px, par.path_y_px)], axis=1)


def _smear(side: int, n: int, margin: int, par: Parameters) -> np.ndarray:
    """Light of each image pixel (a box on the screen) at each grid point, along one axis. Shape ``[G, n]``."""
    grid = (np.arange((side + 2 * margin) * _UP + 2) / _UP - margin) - (side - 1) / 2
    edges = (np.arange(n + 1) - n / 2) * par.pixel_pitch_px
    erf = np.vectorize(math.erf)
    below = 0.5 * (1 + erf((edges[None, :] - grid[:, None]) / (par.blur_px * math.sqrt(2))))
    return np.diff(below, axis=1).astype(np.float32)


@njit(inline="always")
def _bits(state: np.ndarray) -> np.uint64:
    """Next 64 random bits (splitmix64)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(inline="always")
def _uniform(state: np.ndarray) -> float:
    """In (0, 1)."""
    return (float(_bits(state) >> np.uint64(12)) + 0.5) / 4503599627370496.0


@njit(inline="always")
def _normal(state: np.ndarray) -> float:
    return math.sqrt(-2 * math.log(_uniform(state))) * math.cos(2 * math.pi * _uniform(state))


@njit(inline="always")
def _light(image: np.ndarray, smear_x: np.ndarray, smear_y: np.ndarray, dark: float) -> np.ndarray:
    """The blurred log image on the fine grid."""
    h, w = image.shape
    rows = np.zeros((smear_y.shape[0], w), np.float32)
    for i in range(rows.shape[0]):
        for y in range(h):
            if smear_y[i, y] > 1e-7:
                for x in range(w):
                    rows[i, x] += smear_y[i, y] * image[y, x]
    light = np.empty((smear_y.shape[0], smear_x.shape[0]), np.float32)
    for j in range(light.shape[1]):
        first, last = w, 0
        for x in range(w):
            if smear_x[j, x] > 1e-7:
                first, last = min(first, x), x + 1
        for i in range(light.shape[0]):
            total = np.float32(0)
            for x in range(first, last):
                total += smear_x[j, x] * rows[i, x]
            light[i, j] = math.log(total + dark)
    return light


@njit(parallel=True, cache=True)
def _simulate(
    image,
    index,
    seed,
    path,
    smear_x,
    smear_y,
    margin,
    threshold,
    spreads,
    gain,
    refractory_us,
    dt_us,
    dark,
    out,
    counts,
):  # type: ignore[no-untyped-def]
    for n in prange(len(image)):
        counts[n] = _record(
            image[n],
            index[n],
            seed,
            path,
            smear_x,
            smear_y,
            margin,
            threshold,
            spreads,
            gain,
            refractory_us,
            dt_us,
            dark,
            out[n],
        )


@njit(cache=True)
def _record(
    image, index, seed, path, smear_x, smear_y, margin, threshold, spreads, gain, refractory_us, dt_us, dark, out
):  # type: ignore[no-untyped-def]
    """One recording into ``out``; returns how many events it has, even where they do not fit."""
    path_jitter, time_jitter_us, threshold_jitter, noise_rate = spreads
    height, width = threshold.shape[1:]
    state = np.empty(1, np.uint64)
    state[0] = np.uint64(seed)
    state[0] = _bits(state) ^ np.uint64(index)
    state[0] = _bits(state)
    shift_x = min(max(_normal(state), -6.0), 6.0) * path_jitter
    shift_y = min(max(_normal(state), -6.0), 6.0) * path_jitter
    late = _normal(state) * time_jitter_us / dt_us
    light = _light(image, smear_x, smear_y, dark)

    v = np.empty((height, width), np.float32)  # what the pixel sees now, low-passed log intensity
    reference = np.empty((height, width), np.float32)  # what it saw at its last event
    off, on = threshold[0].copy(), threshold[1].copy()  # its present thresholds
    blind = np.zeros((height, width))  # until when
    noise = np.empty((height, width))  # when its next event without cause falls
    for y in range(height):
        for x in range(width):
            noise[y, x] = -math.log(_uniform(state)) / noise_rate if noise_rate > 0 else np.inf

    count = 0
    for step in range(len(path)):
        at = min(max(step - late, 0.0), len(path) - 1.0)
        k = min(int(at), len(path) - 2)
        f = at - k
        gx = (margin - shift_x - path[k, 0] * (1 - f) - path[k + 1, 0] * f) * _UP
        gy = (margin - shift_y - path[k, 1] * (1 - f) - path[k + 1, 1] * f) * _UP
        ix, iy = math.floor(gx), math.floor(gy)
        fx, fy = np.float32(gx - ix), np.float32(gy - iy)
        a, b, c, d = (1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx
        t0, t1 = (step - 1) * dt_us, step * dt_us
        first = count  # of this step
        for y in range(height):
            up, down = light[iy + _UP * y], light[iy + _UP * y + 1]
            for x in range(width):
                i = ix + _UP * x
                now = a * up[i] + b * up[i + 1] + c * down[i] + d * down[i + 1]
                if step == 0:
                    v[y, x] = now
                    reference[y, x] = now
                    continue
                v0 = v[y, x]
                v1 = v0 + np.float32(gain) * (now - v0)
                v[y, x] = v1
                # Nothing can happen: the common case, and the loop's speed.
                if (
                    blind[y, x] <= t0
                    and noise[y, x] > t1
                    and v1 - reference[y, x] < on[y, x]
                    and reference[y, x] - v1 < off[y, x]
                ):
                    continue
                t = t0
                while True:
                    if blind[y, x] > t:
                        if blind[y, x] > t1:
                            break
                        t = blind[y, x]
                        reference[y, x] = v0 + (v1 - v0) * (t - t0) / dt_us
                    rise = v1 - reference[y, x]
                    polarity = -1
                    if rise >= on[y, x]:
                        polarity, level = 1, reference[y, x] + on[y, x]
                    elif -rise >= off[y, x]:
                        polarity, level = 0, reference[y, x] - off[y, x]
                    if polarity >= 0:
                        crossing = t if v1 == v0 else max(t, t0 + (level - v0) / (v1 - v0) * dt_us)
                        crossing = min(crossing, t1)
                    else:
                        crossing = np.inf
                    if noise[y, x] <= min(crossing, t1):
                        crossing = max(noise[y, x], t)
                        level = v0 + (v1 - v0) * (crossing - t0) / dt_us
                        polarity = 1 if _uniform(state) < 0.5 else 0
                        noise[y, x] = crossing - math.log(_uniform(state)) / noise_rate
                    elif polarity < 0:
                        break
                    t = crossing
                    reference[y, x] = level
                    blind[y, x] = t + refractory_us
                    if threshold_jitter > 0:
                        on[y, x] = threshold[1, y, x] * max(1 + threshold_jitter * _normal(state), 0.3)
                        off[y, x] = threshold[0, y, x] * max(1 + threshold_jitter * _normal(state), 0.3)
                    if count < len(out):
                        # Insert in order of time; a step holds few events.
                        us = np.int32(t)
                        j = count
                        while j > first and out[j - 1].t > us:
                            out[j].x, out[j].y, out[j].t, out[j].p = (
                                out[j - 1].x,
                                out[j - 1].y,
                                out[j - 1].t,
                                out[j - 1].p,
                            )
                            j -= 1
                        out[j].x, out[j].y, out[j].t, out[j].p = x, y, us, polarity
                    count += 1
    return count
