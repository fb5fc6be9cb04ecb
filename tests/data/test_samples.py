"""Samples: what is taken is what was put in, whatever was picked, scaled or put in another order before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.augment_images import AugmentImages
from cil_spl.data.samples import Samples, from_arrays, joined, spread, standardised


def some(n: int = 6, shape: tuple[int, int, int] = (2, 3, 4), seed: int = 0, dtype: type = np.uint8) -> Samples:
    values = np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(dtype)
    origins = [f"o/{i}" for i in range(n)]
    return from_arrays(values, np.arange(n) % 3, "abc", [f"s{i}" for i in range(n)], origins, scale=1 / 255)


@given(st.lists(st.integers(0, 5), max_size=9), st.lists(st.integers(-1, 5), max_size=9))
def test_subsets_and_takes_keep_each_sample(picked: list[int], index: list[int]) -> None:
    data = some()
    index = [i for i in index if i < len(picked)]
    part = data.subset(picked)
    assert len(part) == len(picked)
    assert part.input_shape == (2, 3, 4)
    assert part.values is data.values  # shared
    taken = part.take(index)
    assert taken.shape == (len(index), 2, 3, 4)
    assert taken.dtype == np.float32
    for b, i in enumerate(index):
        if i < 0:
            assert not taken[b].any()
            continue
        np.testing.assert_array_equal(taken[b], data.values[picked[i]] * np.float32(1 / 255))
        assert (part.target[i], part.name[i], part.origin[i]) == (picked[i] % 3, f"s{picked[i]}", f"o/{picked[i]}")


def test_values_of_every_kind_become_the_same_numbers() -> None:
    kinds = [some(dtype=dtype)[1] for dtype in (np.uint8, np.int16, np.int64, np.float32, np.float64)]
    for other in kinds[1:]:
        assert other.dtype == np.float32
        np.testing.assert_allclose(other, kinds[0], rtol=1e-6)
    assert kinds[0].max() <= 1


def test_a_subset_of_a_subset_and_its_order() -> None:
    data = some()
    twice = data.subset([5, 0, 3]).subset([2, 0])
    assert twice.name.tolist() == ["s3", "s5"]
    np.testing.assert_array_equal(twice[0], data[3])
    order = np.random.default_rng(1).permutation(12)
    moved = Samples(**{**vars(data), "order": order}).subset([4])
    np.testing.assert_array_equal(moved[0].reshape(2, 12), data[4].reshape(2, 12)[:, order])


def test_standardised_by_hand() -> None:
    values = np.array([[[[0, 0], [2, 2]], [[7, 7], [7, 7]]], [[[4, 4], [6, 6]], [[7, 7], [7, 7]]]], np.uint8)
    data = from_arrays(values, [0, 1], "ab", scale=0.5)
    mean, deviation = spread(data)
    assert mean.tolist() == [1.5, 3.5]
    np.testing.assert_allclose(deviation, [np.sqrt(5) / 2, 0], atol=1e-12)
    # The second channel never changes: it is moved to 0 and not divided.
    out = standardised(data, mean, deviation).take([0, 1])
    np.testing.assert_allclose(out[:, 0], (values[:, 0] / 2 - 1.5) / (np.sqrt(5) / 2), atol=1e-6)
    assert not out[:, 1].any()


@given(st.integers(1, 40), st.integers(0, 3))
def test_standardised_values_have_mean_0_and_deviation_1(n: int, seed: int) -> None:
    data = some(n, (3, 4, 4), seed)
    done = standardised(data, *spread(data))
    out = done.take(np.arange(n)).astype(np.float64)
    np.testing.assert_allclose(out.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std((0, 2, 3)), 1, atol=1e-5)
    np.testing.assert_allclose(spread(done)[1], 1, atol=1e-9)


def test_padding_stays_zero_when_values_are_moved() -> None:
    data = some()
    moved = standardised(data, *spread(data))
    assert not moved.take([-1])[0].any()
    assert moved.take([0])[0].any()


def test_joined_keeps_all_of_both() -> None:
    both = joined([some(3).subset([2, 0]), some(2, seed=1)])
    assert both.name.tolist() == ["s2", "s0", "s0", "s1"]
    np.testing.assert_array_equal(both[0], some(3)[2])
    np.testing.assert_array_equal(both[3], some(2, seed=1)[1])


def test_targets_that_are_no_classes() -> None:
    data = from_arrays(np.zeros((3, 1, 2, 2)), np.arange(6).reshape(3, 2), None)
    assert data.classes is None
    assert data.target.dtype == np.float32
    assert data.subset([2]).target.tolist() == [[4, 5]]


GOOD = np.zeros((3, 1, 2, 2))


@pytest.mark.parametrize(
    ("values", "target", "classes", "message"),
    [
        (np.zeros((3, 2, 2)), [0, 1, 0], "ab", r"shape \[3, 2, 2\]; needs numbers of shape \[samples, channels"),
        (np.full((1, 1, 1, 1), "x"), [0], "ab", "samples: an array of <U1; needs numbers"),
        (GOOD, [0, 1], "ab", "2 targets for 3 samples"),
        (
            np.where(np.arange(3)[:, None, None, None] == 1, np.nan, GOOD),
            [0, 1, 0],
            "ab",
            "sample 1: its values are not",
        ),
        (GOOD, [0, 1, 2], "ab", "sample 2: its label is 2; allowed are 0 to 1, .*; name 3 classes"),
        (GOOD, [0, -1, 0], "ab", "sample 1: its label is -1; allowed are 0 to 1"),
        (GOOD, [0.0, 1.5, 0.0], "ab", r"sample 1: its label is 1\.5; .*without a fraction"),
        (GOOD, [[0], [1], [0]], "ab", "needs one class number for each"),
        (GOOD, [[1, 0], [0, 1], [1, 0]], "ab", r"argmax\(axis=1\)"),
        (GOOD, ["0", "1", "0"], "ab", "in place of text"),
        (GOOD, ["0", "1", "0"], None, "samples: targets: an array of <U1; needs numbers"),
        (GOOD, [0.5, np.inf, 1], None, "sample 1: its target is no finite number"),
    ],
)
def test_what_cannot_be_samples_is_named(values: np.ndarray, target: list, classes: str | None, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        from_arrays(values, np.array(target), classes)


def test_augmentation_is_of_the_values_before_they_are_scaled_and_moved() -> None:
    """What is padded is a pixel of value 0 in the file: black, whatever becomes of black."""
    data = standardised(some(1), np.array([0.5, 0.25]), np.array([2.0, 4.0]))
    black = np.array([-0.25, -0.0625], np.float32)
    edges = [data.take([0], AugmentImages(padding=3), [(seed,)])[0] for seed in range(40)]
    assert any((image[:, :2] == black[:, None, None]).all() for image in edges)
