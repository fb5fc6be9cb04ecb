"""The saccade simulator: what must hold for any parameters, and what the defaults must show."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.events import EVENT, check_events
from cil_spl.data.saccade_parameters import Parameters, from_config
from cil_spl.data.saccades import SENSOR_SIZE, simulate

DEFAULT = Parameters()
# Nothing by chance: identical pixels, no noise, no jitter.
EXACT = replace(
    DEFAULT,
    path_jitter_px=0,
    time_jitter_ms=0,
    threshold_spread=0,
    threshold_jitter=0,
    noise_on_hz=0,
    noise_off_hz=0,
    start_spread=0,
)
STILL = {"path_ms": (0, 300), "path_x_px": (0, 0), "path_y_px": (0, 0)}


def digits(n: int = 4) -> np.ndarray:
    """Bars and rings, drawn here so that no data is needed. Shape [n, 28, 28]."""
    y, x = np.mgrid[:28, :28]
    shapes = [
        (abs(x - 13.5) < 1.6) & (abs(y - 13.5) < 10),
        abs(np.hypot(x - 13.5, y - 13.5) - 7) < 1.6,
        (abs(y - 13.5) < 1.6) & (abs(x - 13.5) < 10),
        abs(x + y - 27) < 2.5,
    ]
    return np.stack([shapes[i % 4] & (abs(x - 13.5) < 10) & (abs(y - 13.5) < 10) for i in range(n)]).astype(float)


def recording(image: np.ndarray, parameters: Parameters, seed: int = 0) -> np.ndarray:
    return simulate(image[None], seed, parameters=parameters)[0]


def test_repeats_to_the_bit_whatever_the_threads_and_the_company() -> None:
    images = digits(6)
    events, offsets = simulate(images, 5)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        again, _ = simulate(images, 5)
    finally:
        numba.set_num_threads(threads)
    assert np.array_equal(events, again)
    picked, at = simulate(images[[4, 1]], 5, np.array([4, 1]))
    assert np.array_equal(picked[: at[1]], events[offsets[4] : offsets[5]])
    assert np.array_equal(picked[at[1] :], events[offsets[1] : offsets[2]])


def test_seed_and_index_each_give_another_recording_of_the_same_digit() -> None:
    image = np.repeat(digits(1), 2, axis=0)
    events, offsets = simulate(image, 0)
    assert not np.array_equal(events[: offsets[1]], events[offsets[1] :])
    assert not np.array_equal(events, simulate(image, 1)[0])
    # Another recording, not another digit: the counts agree to a few percent.
    assert abs(np.diff(offsets)[0] / np.diff(offsets)[1] - 1) < 0.1


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**40),
    threshold=st.floats(0.05, 1.0),
    refractory=st.sampled_from([0.0, 500.0, 5000.0]),
    noise=st.floats(0, 30),
    dt=st.sampled_from([500.0, 1000.0, 1700.0]),
    shape=st.sampled_from([(28, 28), (8, 8), (5, 40)]),
)
def test_events_are_sorted_within_the_sensor_and_keep_the_refractory_time(
    seed: int, threshold: float, refractory: float, noise: float, dt: float, shape: tuple[int, int]
) -> None:
    image = np.random.default_rng(seed).random((2, *shape))
    parameters = replace(
        DEFAULT,
        threshold_on=threshold,
        threshold_off=threshold,
        refractory_us=refractory,
        noise_on_hz=noise,
        noise_off_hz=noise,
        dt_us=dt,
    )
    events, offsets = simulate(image, seed, parameters=parameters)
    assert events.dtype == EVENT
    assert offsets[0] == 0
    assert offsets[-1] == len(events)
    for start, stop in pairwise(offsets):
        part = check_events(events[start:stop], SENSOR_SIZE)  # sorted, inside, polarities 0 and 1
        assert part["t"].max(initial=0) <= DEFAULT.path_ms[-1] * 1000 + dt
        pixel = part["y"].astype(int) * SENSOR_SIZE[0] + part["x"]
        order = np.lexsort((part["t"], pixel))
        gap = np.diff(part["t"][order])[np.diff(pixel[order]) == 0]
        assert gap.min(initial=10**9) >= np.floor(refractory) - 1  # times are cut to whole microseconds


def test_without_motion_there_is_only_noise() -> None:
    image = digits(1)[0]
    assert len(recording(image, replace(EXACT, **STILL))) == 0
    noisy = replace(EXACT, **STILL, noise_on_hz=20, noise_off_hz=5)
    events = recording(image, noisy)
    expected = 25 * 0.3 * SENSOR_SIZE[0] * SENSOR_SIZE[1]
    assert abs(len(events) - expected) < 5 * np.sqrt(expected)
    assert abs(events["p"].mean() - 0.8) < 0.03
    assert abs(events["t"].mean() - 150_000) < 5_000


def test_an_empty_image_makes_no_event() -> None:
    for level in (0.0, 1.0):
        image = np.full((28, 28), level)
        if level == 0:
            assert len(recording(image, EXACT)) == 0
        else:  # its rim is an edge, its inside is not
            events = recording(image, EXACT)
            inside = (abs(events["x"] - 16.5) < 6) & (abs(events["y"] - 16.5) < 6)
            assert len(events) > 0
            assert not inside.any()


def test_a_ramp_in_log_intensity_crosses_where_the_equation_says() -> None:
    """One wide edge passes at constant speed: v runs from 0 to log(dark / (1 + dark)) and no further."""
    image = np.zeros((28, 28))
    image[:, :14] = 1
    contrast = np.log((1 + EXACT.dark) / EXACT.dark)
    for share, expected in ((0.9, 1), (0.45, 2), (0.3, 3), (1.1, 0)):
        parameters = replace(
            EXACT,
            path_ms=(0, 100),
            path_x_px=(-8, 8),
            path_y_px=(0, 0),
            refractory_us=0,
            threshold_on=share * contrast,
            threshold_off=share * contrast,
        )
        events = recording(image, parameters)
        # The pixel in the middle row that the edge crosses half-way; the digit is dark, so OFF.
        middle = events[(events["x"] == 16) & (events["y"] == 16)]
        assert len(middle) == expected
        assert not middle["p"].any()


def test_reversing_the_motion_exchanges_on_and_off() -> None:
    """What comes darkening goes brightening: the way back is the way there, mirrored."""
    image = digits(2)[1]
    parameters = replace(EXACT, refractory_us=0, threshold_on=0.2, threshold_off=0.2)
    there = replace(parameters, path_ms=(0, 100), path_x_px=(-3, 3), path_y_px=(0, 0))
    back = replace(there, path_x_px=(3, -3))
    a, b = recording(image, there), recording(image, back)
    # The ring is symmetric: the same polarities in mirrored pixels.
    mirrored = a.copy()
    mirrored["x"] = SENSOR_SIZE[0] - 1 - a["x"]
    assert abs(len(a) - len(b)) <= 0.01 * len(a)
    for p in (0, 1):
        counts = [np.bincount(e["x"][e["p"] == p], minlength=SENSOR_SIZE[0]) for e in (mirrored, b)]
        assert np.abs(counts[0] - counts[1]).sum() <= 0.02 * len(a)
    # In: OFF ahead of the dark ring, ON after it.
    ahead = a[(a["x"] >= 26) & (a["t"] > 50_000)]
    assert len(ahead) > 0
    assert not ahead["p"].any()


def test_higher_thresholds_never_give_more_events() -> None:
    image = digits(2)[1]
    counts = [
        len(recording(image, replace(EXACT, threshold_on=t, threshold_off=t))) for t in (0.1, 0.15, 0.2, 0.3, 0.5, 0.8)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[3] > 0
    on_only = recording(image, replace(EXACT, threshold_off=1e3))
    assert len(on_only) > 0
    assert on_only["p"].all()


def test_three_bursts_at_the_saccades_and_as_many_on_as_off() -> None:
    events, _ = simulate(digits(8), 0)
    rate = np.histogram(events["t"] / 1000, np.arange(0, 311, 10))[0]
    for middle in (50, 150, 250):
        assert rate[middle // 10 - 1 : middle // 10 + 1].mean() > 4 * rate[[8, 9, 21, 22, 30]].mean()
    assert abs(events["p"].mean() - 0.5) < 0.03
    assert events["t"].max() < 320_000


def test_the_sensor_is_drawn_by_its_own_seed() -> None:
    image = digits(1)[0]
    wide = replace(EXACT, threshold_spread=0.3)
    assert np.array_equal(recording(image, wide, seed=0), recording(image, wide, seed=1))
    assert not np.array_equal(recording(image, wide), recording(image, replace(wide, sensor_seed=1)))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"threshold_on": 0}, "threshold_on=0"),
        ({"refractory_us": -1}, "refractory_us=-1"),
        ({"dark": float("nan")}, "dark=nan"),
        ({"path_x_px": (0, 1)}, "path_x_px"),
        ({"path_ms": (0, 0), "path_x_px": (0, 1), "path_y_px": (0, 1)}, "path_ms"),
        ({"blur": 1}, "simulator.blur=1"),
    ],
)
def test_bad_parameters_are_named(change: dict[str, object], word: str) -> None:
    with pytest.raises(RequestError, match=word):
        from_config(change)


@pytest.mark.parametrize("image", [np.full((1, 28, 28), 255.0), np.full((1, 28, 28), np.nan), np.zeros((28, 28))])
def test_bad_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(RequestError, match="simulator takes"):
        simulate(image, 0)


def test_more_events_than_the_work_array_holds() -> None:
    """Very low thresholds overflow the first work array; nothing is lost."""
    image = np.random.default_rng(0).random((28, 28))
    parameters = replace(EXACT, threshold_on=0.01, threshold_off=0.01, refractory_us=0)
    assert len(recording(image, parameters)) > 12_000
