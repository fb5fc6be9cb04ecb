"""Stratified splits, the same for the same seed."""

from __future__ import annotations

import numpy as np

from cil_spl.base.errors import RequestError


def stratified_split(target: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Part a set in two, class by class.

    Each class gives ``round(fraction * its size)`` of its members to the second part (half rounds up), but at least
    one and never all of them where it has two or more; a class of one stays in the first part.

    Args:
        target: class numbers. Shape ``[R]``.
        fraction: share of the second part, 0 <= fraction < 1; 0 leaves it empty.
        seed: same seed, same split.

    Returns:
        Indices of the first and of the second part, ascending, int64.

    Raises:
        RequestError: the fraction is out of range.
    """
    if not 0 <= fraction < 1:
        raise RequestError(f"dataset.val_fraction={fraction}: allowed is 0 <= val_fraction < 1")
    target = np.asarray(target)
    second = np.zeros(len(target), bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(target):
        members = rng.permutation(np.flatnonzero(target == label))
        n = int(np.floor(fraction * len(members) + 0.5))
        n = min(max(n, 1), len(members) - 1) if fraction > 0 else 0
        second[members[:n]] = True
    return np.flatnonzero(~second), np.flatnonzero(second)
