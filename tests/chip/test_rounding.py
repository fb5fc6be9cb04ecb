"""The rounding rule: by hand, and the same bits from numpy and from torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.chip.rounding import Precision, scale_to_fit, to_integers


def in_numpy(weight: list[float], *thresholds: float) -> tuple[Any, ...]:
    return np.array(weight, np.float32), *map(np.float32, thresholds)


def in_torch(weight: list[float], *thresholds: float) -> tuple[Any, ...]:
    return torch.tensor(weight), *map(torch.tensor, thresholds)


KINDS = (in_numpy, in_torch)


def both(weight: list[float]) -> list[Any]:
    return [kind(weight)[0] for kind in KINDS]


@pytest.mark.parametrize(
    ("weights", "scale"),
    [
        ([1.0, -1.0], 127.0),  # both ends fit at 127
        ([0.5, -1.0], 128.0),  # the negative end has one level more
        ([127.0, -128.0], 1.0),
        ([2.0, 0.1], 63.5),
        ([-0.25, -0.1], 512.0),
    ],
)
def test_scale_uses_128_at_the_negative_end(weights: list[float], scale: float) -> None:
    assert [float(scale_to_fit(w.max(), w.min(), 8)) for w in both(weights)] == [scale] * 2


@pytest.mark.parametrize("numbers", KINDS)
def test_thresholds_share_the_scale_and_round_half_to_even(numbers: Any) -> None:
    integers = to_integers(*numbers([1.0, -0.5, 0.0197], 0.5, -1.5))
    assert float(integers.scale) == 127
    assert integers.weight.tolist() == [127, -64, 3]  # -63.5 -> -64, 2.50 -> 3 (2.5019)
    assert integers.threshold == 64  # 63.5 -> 64
    assert integers.min_v_mem == -190  # -190.5 -> -190
    assert integers.limited_by == "weights"


@pytest.mark.parametrize("numbers", KINDS)
def test_a_large_threshold_limits_the_scale(numbers: Any) -> None:
    integers = to_integers(*numbers([0.001, -0.001], 1.0, -1.0))
    assert integers.limited_by == "thresholds"
    assert float(integers.scale) == 32767


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=40),
    st.floats(0.0625, 64, width=32),
    st.floats(-64, 0, width=32),
)
def test_numpy_and_torch_give_the_same_bits(weight: list[float], theta: float, low: float) -> None:
    a, b = (to_integers(*numbers(weight, theta, low)) for numbers in KINDS)
    assert a.weight.dtype == np.float32
    assert b.weight.dtype == torch.float32
    assert a.weight.tolist() == b.weight.tolist()
    assert a.limited_by == b.limited_by
    for name in ("threshold", "min_v_mem", "scale"):
        assert float(getattr(a, name)) == float(getattr(b, name)), name


def test_the_scale_is_torchs_division_to_the_last_bit() -> None:
    for row in np.random.default_rng(0).normal(size=(300, 9)).astype(np.float32):
        tensor = torch.from_numpy(row)
        high, low = tensor.max(), tensor.min()
        scale = float((127 / high).abs() if low.abs() <= high.abs() * (128 / 127) else (128 / low).abs())
        assert float(to_integers(tensor, torch.tensor(1.0), torch.tensor(-1.0)).scale) == scale
        assert float(to_integers(row, np.float32(1), np.float32(-1)).scale) == scale


@pytest.mark.parametrize("numbers", KINDS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_refused(numbers: Any, bad: float) -> None:
    with pytest.raises(RequestError, match="not a finite number"):
        to_integers(*numbers([1.0, bad, 0.5], 1.0, -1.0))


@pytest.mark.parametrize("numbers", KINDS)
def test_zeros_leave_the_scale_to_the_thresholds(numbers: Any) -> None:
    integers = to_integers(*numbers([0.0, 0.0], 1.0, -1.0))
    assert (integers.weight.tolist(), float(integers.scale), integers.limited_by) == ([0, 0], 32767, "thresholds")


def test_torch_is_not_needed() -> None:
    check = "import sys, cil_spl.chip.rounding, cil_spl.chip.silicon; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_a_threshold_that_is_lost_names_the_cause() -> None:
    """At 2 bits the scale is 1 / 3, at 3 bits 3 / 3: then a threshold of 1 is one step."""
    weight, theta, low = np.float32([3.0, -1.0]), np.float32(1.0), np.float32(-1.0)
    with pytest.raises(
        RequestError, match=r"^quantize\.bits=2: .* rounds to 0 beside weights up to 3, .*quantize\.bits=3 or more"
    ):
        to_integers(weight, theta, low, Precision(bits=2), scaled_by="method.levels=4")
    with pytest.raises(RequestError, match=r"^method\.levels=9: it makes weights up to 3000, .* lower it$"):
        to_integers(1000 * weight, theta, low, scaled_by="method.levels=9")
    with pytest.raises(RequestError, match=r"^model\.neuron\.spike_threshold=1 rounds to 0 beside weights up to 3000"):
        to_integers(1000 * weight, theta, low)
