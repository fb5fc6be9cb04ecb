from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cil_spl.base.errors import RequestError
from cil_spl.data.splits import stratified_split


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
