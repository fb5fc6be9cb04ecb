from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.splits import random_sample, random_split, stratified_sample, stratified_split


@given(st.lists(st.integers(0, 5), max_size=120), st.floats(0, 0.99), st.integers(0, 5))
def test_stratified_and_exact(target, fraction, seed):
    target = np.array(target, int)
    first, second = stratified_split(target, fraction, seed)
    assert sorted([*first, *second]) == list(range(len(target)))
    for label in np.unique(target):
        n = int((target == label).sum())
        want = 0 if fraction == 0 else min(max(int(np.floor(fraction * n + 0.5)), 1), n - 1)
        assert (target[second] == label).sum() == want


def test_seed_decides():
    target = np.repeat(np.arange(10), 30)
    a, b, c = (stratified_split(target, 0.1, seed)[1] for seed in (0, 0, 1))
    assert a.tolist() == b.tolist()
    assert a.tolist() != c.tolist()
    # Members are drawn, not taken from one end of the class.
    assert any(m % 30 > 20 for m in a)
    assert any(m % 30 < 10 for m in a)


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0])
def test_fraction_out_of_range(fraction):
    with pytest.raises(RequestError, match="val_fraction"):
        stratified_split(np.zeros(3), fraction, 0)


@given(st.integers(0, 60), st.floats(0, 0.99), st.integers(0, 5))
def test_a_random_split_has_the_share_and_everything_once(n, fraction, seed):
    first, second = random_split(n, fraction, seed)
    assert sorted([*first, *second]) == list(range(n))
    want = int(np.floor(fraction * n + 0.5))
    assert len(second) == (0 if fraction == 0 or n == 0 else min(max(want, 1), n - 1))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=120), st.data(), st.integers(0, 5))
def test_a_stratified_sample_has_the_classes_proportions(target, data, seed):
    n = data.draw(st.integers(0, len(target)))
    target = np.array(target)
    chosen = stratified_sample(target, n, seed)
    assert len(chosen) == len(set(chosen.tolist())) == n
    assert chosen.tolist() == sorted(chosen)
    for label in np.unique(target):
        of_class = (target == label).sum() / len(target)
        # Each class's share is rounded; what that adds up to over all is made good by all of them alike.
        rest = len(np.unique(target)) / 2
        assert abs((target[chosen] == label).sum() - n * of_class) <= 0.5 + rest * of_class + 1e-9


def test_a_sample_is_drawn_by_the_seed_from_all_of_a_class():
    unequal = np.repeat([0, 1], [90, 10])
    assert np.bincount(unequal[stratified_sample(unequal, 20, 0)]).tolist() == [18, 2]
    target = np.repeat(np.arange(10), 30)
    a, b, c = (stratified_sample(target, 50, seed) for seed in (0, 0, 1))
    assert a.tolist() == b.tolist() != c.tolist()
    assert np.bincount(target[a]).tolist() == [5] * 10
    assert {m % 30 > 14 for m in a.tolist()} == {True, False}
    assert len(set(random_sample(40, 7, 3).tolist())) == 7
    assert random_sample(40, 7, 3).tolist() != random_sample(40, 7, 4).tolist()
