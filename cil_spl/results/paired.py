"""The difference of two rows' scores on the same test recordings, with its 95 % interval.

Scores vary with the seed of a run and with the recording, and both are drawn at random (crossed random effects). Of the
two rows' difference D (seeds S, recordings N) the analysis of variance has the mean squares of seeds, recordings and
residual, MS_s, MS_r and MS_e (Searle, Casella & McCulloch, Variance Components, 1992, chapter 4), and

    Var(mean D) = V_s + V_r,   V_s = MS_s / SN,   V_r = max(MS_r - MS_e, 0) / SN.

Recordings are resampled, the same ones for both rows and all seeds; deviations of the resampled mean are scaled to V_r.
Seeds are too few for that: with 3 of them, an interval from resampled seeds contains the true difference in 76 % of
experiments where seeds decide, and no bootstrap of crossed effects is exact (McCullagh, Resampling and exchangeable
arrays, Bernoulli 6, 2000; Owen, The pigeonhole bootstrap, Ann. Appl. Stat. 1, 2007). Their part is therefore drawn from
the normal distribution with variance V_s, and the whole is divided by sqrt(chi²_f / f), as in Student's t, with
f = (S - 1)(V_s + V_r) / V_s degrees of freedom: S - 1 where seeds decide, infinitely many where recordings do. That is
Satterthwaite's approximation (Biometrics Bulletin 2, 1946) without its square, which with 3 seeds covers down to 91 %.

Two rows without a seed in common have each its own V_s; their sum counts, with Satterthwaite's degrees of freedom in
place of S - 1. With one seed the interval is one over recordings alone: how much another seed would change, it does not
know.

How often the interval contains the true difference, over strong, weak and no effects of seeds and of recordings
(`tests/results/test_paired.py` measures it, 4,000 experiments each; per cent):

    seeds   both rows have the same   none in common
    5       94 to 96                  95 to 97
    3       93.5 to 96.5              95 to 97
    2       90 to 96                  95 to 97
    1       95 where seeds have no effect; 45 to 93 where they have one

Seeds may agree by chance. No interval is narrower than the one, of 86 %, that the spread over single recordings leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
# Of the narrowest interval that is allowed: at 95 % the wider of both would hold in 98.6 % where seeds do nothing; at
# 80 % two seeds that each fail on another recording would differ clearly from two that do not.
LEAST = (0.07, 0.93)
DRAWS = 10_000
SEED = 0
_FEW = 64  # distinct values of a difference; counts of them are drawn, which is the same and quicker
_AT_ONCE = 1 << 22  # numbers drawn at a time


@dataclass(frozen=True)
class Difference:
    """A difference of mean scores.

    Attributes:
        value: the first row's mean minus the second's, over the seeds that are compared.
        low: end of its interval; None where there is none.
        high: the other end.
        seeds: of the row with fewer; with one, the interval is over recordings alone.
        common: whether only seeds that both rows have were compared.
    """

    value: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1
    common: bool = True

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def compared(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], draws: int = DRAWS) -> Difference:
    """The difference of two rows, paired by recording, and by seed where both have it.

    Seeds that one row alone has are left out where at least two are left (or one, where a row has no more); rows with
    no (or one) seed in common are compared over all of their seeds.

    Args:
        first: seed → score of each recording. Shape (N,) each, the same recordings in the same order.
        second: likewise.
        draws: of the bootstrap.
    """
    common = [seed for seed in first if seed in second]
    if len(common) > 1 or (common and 1 in (len(first), len(second))):
        parts = [np.stack([first[seed] - second[seed] for seed in common])]
    else:
        parts = [np.stack(list(first.values())), -np.stack(list(second.values()))]
    value = float(sum(part.mean() for part in parts))
    low, high = interval(parts, draws)
    return Difference(value, low, high, min(len(part) for part in parts), len(parts) == 1)


def interval(parts: Sequence[np.ndarray], draws: int = DRAWS) -> tuple[float | None, float | None]:
    """The interval of the sum of the parts' means.

    Args:
        parts: scores that share recordings and no seeds. Shape (S, N) each; S may differ.
        draws: of the bootstrap.

    Returns:
        its ends; None for both with fewer than two recordings.
    """
    of_recordings = np.sum([part.mean(axis=0) for part in parts], axis=0)
    n = len(of_recordings)
    if n < 2:
        return None, None
    random = np.random.default_rng(SEED)
    mean, variance = of_recordings.mean(), of_recordings.var(ddof=1) / n
    drawn = (_resampled(of_recordings, draws, random) - mean) * np.sqrt(n / (n - 1))
    if min(len(part) for part in parts) < 2:
        low, high = np.quantile(drawn, ENDS)
        return float(mean + low), float(mean + high)
    squares = [_mean_squares(part) for part in parts]
    residual = sum(left / part.size for part, (_, left) in zip(parts, squares, strict=True))
    alone = max(variance - residual, 0.0)
    drawn *= np.sqrt(alone / variance) if variance > 0 else 0.0
    normal = random.standard_normal(draws)

    def ends(of_parts: Sequence[float], counts: Sequence[int], at: tuple[float, float]) -> np.ndarray:
        seeds = np.array([square / part.size for part, square in zip(parts, of_parts, strict=True)])
        both = drawn + np.sqrt(seeds.sum()) * normal
        if seeds.any():
            freedom = _freedom(seeds, counts, alone)
            both /= np.sqrt(random.chisquare(freedom, draws) / freedom)
        return np.quantile(both, at)

    found = [ends([of_seeds for of_seeds, _ in squares], [len(part) for part in parts], ENDS)]
    if any(of_seeds < left for of_seeds, left in squares):
        # Means of seeds may agree by chance, but each is known no better than its answers on single recordings let it.
        sizes = [len(p) if of_seeds > left else p.size for p, (of_seeds, left) in zip(parts, squares, strict=True)]
        found.append(ends([max(square) for square in squares], sizes, LEAST))
    return float(mean + min(low for low, _ in found)), float(mean + max(high for _, high in found))


def _resampled(values: np.ndarray, draws: int, random: np.random.Generator) -> np.ndarray:
    """Means of ``values`` drawn with replacement. Shape (N,) → (draws,)."""
    n = len(values)
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= _FEW:
        return random.multinomial(n, counts / n, size=draws) @ distinct / n
    step = max(1, _AT_ONCE // n)
    sizes = [min(step, draws - at) for at in range(0, draws, step)]
    return np.concatenate([values[random.integers(0, n, (size, n))].mean(axis=1) for size in sizes])


def _freedom(seeds: np.ndarray, counts: Sequence[int], alone: float) -> float:
    """Degrees of freedom of a variance.

    Args:
        seeds: the parts of it that come from seeds; not all of them 0.
        counts: how many seeds each part is known from.
        alone: the part that comes from recordings.
    """
    whole = seeds.sum()
    of_seeds = whole**2 / sum(v**2 / (count - 1) for v, count in zip(seeds, counts, strict=True))
    return float(of_seeds * (whole + alone) / whole)


def _mean_squares(part: np.ndarray) -> tuple[float, float]:
    """Of seeds, and of the residual. Shape (S, N), S and N at least 2."""
    seeds, n = part.shape
    of_seeds, of_recordings, mean = part.mean(axis=1), part.mean(axis=0), part.mean()
    left = part - of_seeds[:, None] - of_recordings[None] + mean
    return n * of_seeds.var(ddof=1), float(np.square(left).sum()) / ((seeds - 1) * (n - 1))


def unpaired(first: Sequence[float], second: Sequence[float], n: int) -> Difference:
    """The difference of two rows' fractions when only their means on N recordings are known.

    The recordings count as drawn anew for each row, which is too much where both were tested on the same: the interval
    is wider than the paired one. Where that of the normal distribution contains 0, it is the one that is given.

    Args:
        first: a fraction for each seed.
        second: likewise.
        n: test recordings.
    """
    value = float(np.mean(first) - np.mean(second))
    if min(len(first), len(second)) < 2 or n < 1:
        return Difference(value, seeds=min(len(first), len(second)), common=False)
    seeds = [float(np.var(row, ddof=1)) / len(row) for row in (first, second)]
    means = [min(max(float(np.mean(row)), 0.0), 1.0) for row in (first, second)]
    alone = sum(mean * (1 - mean) for mean in means) / n
    freedom = _freedom(np.array(seeds), [len(first), len(second)], alone) if any(seeds) else np.inf
    half = np.sqrt(sum(seeds) + alone) * NormalDist().inv_cdf((1 + LEVEL) / 2)
    if abs(value) > half:  # else it contains 0 already, and a wider one would as well: half a second less
        from scipy.special import stdtrit

        half = np.sqrt(sum(seeds) + alone) * stdtrit(freedom, (1 + LEVEL) / 2)
    return Difference(value, float(value - half), float(value + half), min(len(first), len(second)), False)
