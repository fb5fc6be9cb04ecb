"""The paired difference: what is compared with what, exact cases, and how often its interval contains the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cil_spl.results import paired
from cil_spl.results.paired import compared, interval, unpaired


def row(*seeds):
    return {str(seed): np.array(values, float) for seed, values in seeds}


def test_the_difference_is_of_the_means():
    found = compared(row((0, [1, 1, 0, 1]), (1, [1, 1, 1, 1])), row((0, [1, 0, 0, 0]), (1, [0, 1, 1, 0])))
    assert found.value == pytest.approx(7 / 8 - 3 / 8)
    assert (found.seeds, found.common) == (2, True)


def test_seeds_are_paired_where_both_have_them():
    a = row((7, [0, 0, 0, 0]), (0, [1, 1, 0, 0]), (1, [1, 1, 1, 0]))
    b = row((1, [0, 0, 1, 0]), (0, [0, 0, 0, 0]))
    found = compared(a, b)
    assert found.value == pytest.approx((2 / 4 + 2 / 4) / 2)  # seed 7 is left out
    assert (found.seeds, found.common) == (2, True)


def test_rows_without_a_common_seed_are_compared_whole():
    found = compared(row((0, [1, 1, 0, 0]), (1, [1, 1, 1, 1])), row((2, [1, 0, 0, 0]), (3, [0, 1, 0, 0]), (4, [0] * 4)))
    assert found.value == pytest.approx(6 / 8 - 2 / 12)
    assert (found.seeds, found.common) == (2, False)
    one = compared(row((0, [1, 1, 0, 0]), (1, [1, 1, 1, 1])), row((1, [0, 0, 0, 1]), (2, [0] * 4)))
    assert (one.seeds, one.common) == (2, False)  # one common seed says nothing of seeds


def test_one_seed_alone_is_paired_with_its_like():
    found = compared(row((0, [1, 1, 1, 0])), row((0, [1, 0, 0, 0]), (1, [1, 1, 1, 1])))
    assert (found.value, found.seeds, found.common) == (0.5, 1, True)


def test_the_same_answers_differ_by_nothing():
    one = row(*((seed, [1, 0, 1, 1]) for seed in range(3)))
    assert compared(one, one) == paired.Difference(0.0, 0.0, 0.0, 3, True)
    assert not compared(one, one).is_clear


def test_a_single_recording_has_no_interval():
    assert interval([np.ones((3, 1))]) == (None, None)


def test_recordings_are_resampled_together():
    """Two rows that fail on the same recordings differ by a constant: there is nothing to vary."""
    hard = np.arange(200) % 2
    found = compared(row((0, hard + 0.25)), row((0, hard)))
    assert (found.low, found.high) == (0.25, 0.25)
    apart = compared(row((0, hard + 0.25)), row((0, hard[::-1])))
    assert apart.high - apart.low == pytest.approx(2 * 1.96 * 1 / np.sqrt(200), rel=0.05)


def test_where_seeds_decide_it_is_students_interval():
    values = np.array([0.1, 0.4, 0.3])
    low, high = interval([np.repeat(values[:, None], 500, axis=1)])
    half = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert (high - low) / 2 == pytest.approx(half, rel=0.03)
    assert (high + low) / 2 == pytest.approx(values.mean(), abs=0.02)


def test_seeds_that_agree_by_chance_leave_the_recordings_doubt():
    """Each of two seeds fails on one recording more, another one: equal means, but not known without an error."""
    base = np.tile(np.arange(300) % 10 == 0, (2, 1)).astype(float)
    other = base.copy()
    other[0, 0] = other[1, 10] = 0
    found = compared(row((0, other[0]), (1, other[1])), row((0, base[0]), (1, base[1])))
    assert found.value == pytest.approx(-1 / 300)
    assert found.low < -1 / 300 < 0 < found.high


def test_the_residual_counts_once():
    """Answers that have nothing in common: all of the variance is in the seeds' means already."""
    random = np.random.default_rng(3)
    widths = []
    for _ in range(200):
        low, high = interval([random.standard_normal((5, 100))], draws=1000)
        widths.append(high - low)
    # Student's interval with 4 degrees of freedom; sqrt(2) times that where the residual counts twice.
    assert np.sqrt(np.mean(np.square(widths))) == pytest.approx(2 * 2.776 / np.sqrt(500), rel=0.12)


def test_one_seed_over_recordings_is_the_percentile_bootstrap():
    values = (np.arange(400) < 20).astype(float)[None]
    low, high = interval([values])
    assert (low, high) == pytest.approx(stats.binom.ppf([0.025, 0.975], 400, 0.05) / 400, abs=0.003)


@pytest.mark.parametrize("distinct", [3, 1000])
def test_both_ways_of_resampling_agree(distinct):
    values = np.random.default_rng(1).integers(0, distinct, 1000) / distinct
    drawn = paired._resampled(values, 4000, np.random.default_rng(0))
    assert drawn.mean() == pytest.approx(values.mean(), abs=0.002)
    assert drawn.std() == pytest.approx(values.std() / np.sqrt(1000), rel=0.05)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 30), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_turned_round_it_changes_its_sign(s, t, n, seed):
    random = np.random.default_rng(seed)
    a, b = (row(*((k, random.integers(0, 2, n)) for k in range(size))) for size in (s, t))
    there, back = compared(a, b, draws=2000), compared(b, a, draws=2000)
    assert there.value == pytest.approx(-back.value)
    assert there.low <= there.value + 1e-9
    assert there.value - 1e-9 <= there.high
    assert compared(a, b, draws=2000) == there  # no chance in it
    if s == t:  # one draws the seeds of the side that it is given first
        assert back.high - back.low == pytest.approx(there.high - there.low, rel=0.35, abs=1e-9)


def test_unpaired_from_means_alone():
    found = unpaired([0.9, 0.9], [0.5, 0.5], 100)
    half = 1.959963984540054 * np.sqrt((0.9 * 0.1 + 0.5 * 0.5) / 100)
    assert (found.low, found.high) == pytest.approx((0.4 - half, 0.4 + half))
    far = unpaired([0.9, 0.8, 0.7], [0.1, 0.1, 0.1], 10**9)
    assert far.high - far.value == pytest.approx(stats.t.ppf(0.975, 2) * 0.1 / np.sqrt(3), rel=1e-4)
    assert unpaired([0.9], [0.1, 0.2], 100).low is None


# --- coverage ---------------------------------------------------------------------------------------------------------


def experiment(random, seeds, n, of_seeds, of_recordings, apart, level, shift):
    """Two rows' right and wrong answers, and the true difference (a probit model, whose mean is known).

    Args:
        of_seeds: standard deviation of a run's skill, in each row by itself.
        of_recordings: of a recording's difficulty, the same for both rows.
        apart: of its difficulty for one row alone.
        level: the second row's skill.
        shift: of the first row's.
    """
    hard = of_recordings * random.standard_normal(n)

    def answers(skill):
        own = apart * random.standard_normal(n)
        each = skill + of_seeds * random.standard_normal((seeds, 1)) + hard + own + random.standard_normal((seeds, n))
        return (each > 0).astype(float)

    scale = np.sqrt(of_seeds**2 + of_recordings**2 + apart**2 + 1)
    truth = stats.norm.cdf((level + shift) / scale) - stats.norm.cdf(level / scale)
    return answers(level + shift), answers(level), truth


def coverage(seeds, times=2000, common=True, **case):
    random = np.random.default_rng(7)
    inside = 0
    for _ in range(times):
        first, second, truth = experiment(random, seeds, 300, **case)
        a = {str(k): values for k, values in enumerate(first)}
        b = {str(k + (0 if common else seeds)): values for k, values in enumerate(second)}
        found = compared(a, b, draws=1000)
        inside += found.low <= truth <= found.high
    return inside / times


USUAL = {"of_seeds": 0.15, "of_recordings": 1.0, "apart": 0.5, "level": 1.5, "shift": 0.2}


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_contains_the_truth_in_95_of_100(seeds):
    assert 0.93 <= coverage(seeds, **USUAL) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
@pytest.mark.parametrize("common", [True, False])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"of_seeds": 0.0},
        {"of_seeds": 0.05},
        {"of_seeds": 0.4},
        {"of_recordings": 0.0, "apart": 0.0},
        {"apart": 1.5, "of_seeds": 0.3},
        {"level": 2.5},
        {"shift": 0.0},
    ],
    ids=str,
)
def test_whatever_varies(seeds, common, case):
    assert 0.93 <= coverage(seeds, 4000, common, **USUAL | case) <= 0.97


@pytest.mark.slow
def test_two_seeds_cover_less_and_one_none_of_the_seeds_part():
    """What the docstring says, so that it stays true."""
    assert 0.89 <= coverage(2, 4000, **USUAL) <= 0.97
    assert 0.93 <= coverage(1, 4000, **USUAL | {"of_seeds": 0.0}) <= 0.97
    assert coverage(1, 4000, **USUAL | {"of_seeds": 0.3}) < 0.7
