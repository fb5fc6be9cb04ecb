"""Splits and samples of a set, the same for the same seed: in the classes' proportions, or at random."""

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
    _check_fraction(fraction)
    target = np.asarray(target)
    second = np.zeros(len(target), bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(target):
        members = rng.permutation(np.flatnonzero(target == label))
        n = int(np.floor(fraction * len(members) + 0.5))
        n = min(max(n, 1), len(members) - 1) if fraction > 0 else 0
        second[members[:n]] = True
    return np.flatnonzero(~second), np.flatnonzero(second)


def random_split(n: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Part a set of ``n`` in two at random, where targets are no classes.

    Args:
        fraction: share of the second part, 0 <= fraction < 1; 0 leaves it empty, otherwise it has at least one, and
            the first part too where there are two or more.
        seed: same seed, same split.

    Returns:
        Indices of the first and of the second part, ascending, int64.

    Raises:
        RequestError: the fraction is out of range.
    """
    return stratified_split(np.zeros(n, np.int64), fraction, seed)


def stratified_sample(target: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Indices of ``n`` members, drawn, classes in their proportions as nearly as whole numbers allow; ascending.

    Args:
        target: class numbers. Shape ``[R]``.
        n: at most R.
        seed: same seed, same members.
    """
    drawn = np.random.default_rng(seed).permutation(len(target))
    classes, which, sizes = np.unique(np.asarray(target)[drawn], return_inverse=True, return_counts=True)
    place = np.empty(len(drawn))  # of each among its class, in the order drawn
    for k in range(len(classes)):
        place[which == k] = np.arange(sizes[k])
    share = (place + 0.5) / sizes[which]
    return np.sort(drawn[np.argsort(share, kind="stable")[:n]])


def random_sample(size: int, n: int, seed: int) -> np.ndarray:
    """Indices of ``n`` of ``size`` members, drawn; ascending."""
    return np.sort(np.random.default_rng(seed).permutation(size)[:n])


def _check_fraction(fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise RequestError(f"dataset.val_fraction={fraction}: allowed is 0 <= val_fraction < 1")
