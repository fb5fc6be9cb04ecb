"""Parameters of the saccade simulator: the node ``dataset.simulator``. Without numba, to be checked at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le, MinLen

from cil_spl.base.errors import RequestError
from cil_spl.base.options import check_fields, checked

Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]


@dataclass(frozen=True)
class Parameters:
    """Parameters of the simulator. Pixels are sensor pixels, x to the right and y down.

    Attributes:
        path_ms, path_x_px, path_y_px: knots of the image's motion on the sensor; between them
            monotone cubic (no overshoot). A recording lasts from 0 to the last knot. The default is
            the motion that the real recordings show: down, up to the right, and back to the left,
            with pan and tilt not quite together.
        path_jitter_px: standard deviation of a recording's constant shift, along each axis.
        time_jitter_ms: standard deviation of the moment of each saccade, one every 100 ms; the
            first one begins the recording.
        pixel_pitch_px: side of an image pixel on the sensor.
        negative: show the image's negative: a dark digit on a bright screen.
        blur_px: standard deviation of the optics' Gaussian blur.
        dark: light of a black screen, where a white one gives 1 more.
        threshold_on, threshold_off: change of log light that makes an event.
        threshold_spread: standard deviation between the pixels of a sensor, relative.
        threshold_jitter: standard deviation from event to event in one pixel, relative.
        start_spread: how much of the way to an event, ON or OFF, a pixel may have passed at
            the start, drawn evenly; 0 starts every pixel as after an event.
        refractory_us: time after an event during which a pixel is blind.
        noise_on_hz, noise_off_hz: rate of a pixel's events without cause. Real ones are nearly all
            ON: the pixel's reference leaks.
        sensor_seed: draws the thresholds of the sensor's pixels.
        dt_us: step of the motion. Within a step v runs straight, and an event has the time at
            which the straight line crosses.
    """

    path_ms: Annotated[tuple[Annotated[float, Ge(0), Le(10_000)], ...], MinLen(2)] = (
        0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150, 160, 170, 180, 190, 200, 210, 220, 230,
        240, 250, 260, 270, 280, 290, 300, 310,
    )  # fmt: skip
    path_x_px: Annotated[tuple[Annotated[float, Ge(-100), Le(100)], ...], MinLen(2)] = (
        -2.52, -2.48, -2.56, -2.64, -2.61, -2.49, -1.92, -1.34, -1.00, -0.95, -0.93, -0.78, -0.57, -0.10, 0.62,
        1.25, 1.51, 1.82, 2.15, 2.34, 2.51, 2.75, 2.85, 2.67, 1.88, 0.88, -0.16, -1.16, -1.75, -2.18, -2.32, -2.16,
    )  # fmt: skip
    path_y_px: Annotated[tuple[Annotated[float, Ge(-100), Le(100)], ...], MinLen(2)] = (
        -1.66, -1.64, -1.26, -0.58, 0.51, 1.78, 2.84, 3.46, 3.57, 3.60, 3.59, 3.52, 3.52, 3.21, 2.38, 1.24, 0.03,
        -0.98, -1.53, -1.65, -1.49, -1.51, -1.56, -1.77, -1.64, -1.63, -1.68, -1.83, -1.95, -2.00, -1.97, -1.97,
    )  # fmt: skip
    path_jitter_px: NotNegative = 0.05
    time_jitter_ms: NotNegative = 2.6
    pixel_pitch_px: Positive = 1.01
    negative: bool = True
    blur_px: Positive = 0.52
    dark: Positive = 0.24
    threshold_on: Positive = 0.217
    threshold_off: Positive = 0.203
    threshold_spread: NotNegative = 0.1
    threshold_jitter: NotNegative = 0.20
    start_spread: Annotated[float, Ge(0), Le(1)] = 1.0
    refractory_us: NotNegative = 490.0
    noise_on_hz: NotNegative = 0.38
    noise_off_hz: NotNegative = 0.016
    sensor_seed: Annotated[int, Ge(0)] = 0
    dt_us: Positive = 1000.0

    def __post_init__(self) -> None:
        check_fields(self, "dataset.simulator")
        knots = [np.asarray(k, float) for k in (self.path_ms, self.path_x_px, self.path_y_px)]
        if len({len(k) for k in knots}) != 1:
            raise RequestError(
                "dataset.simulator.path_ms, path_x_px and path_y_px need the same number of knots; they have "
                f"{', '.join(str(len(k)) for k in knots)}"
            )
        if knots[0][0] != 0 or (np.diff(knots[0]) <= 0).any():
            raise RequestError(f"dataset.simulator.path_ms={self.path_ms} must start at 0 and rise")


def from_config(parameters: Mapping[str, Any] | None) -> Parameters:
    """Parameters from a config's mapping; what it does not name keeps its default.

    Raises:
        RequestError: a name that the simulator does not have, or a value out of range.
    """
    given = checked(Parameters, parameters or {}, "dataset.simulator")
    typed: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return Parameters(**typed)
