"""Class numbers from what users have for labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError


def count_of(listed: Any, what: str) -> int:
    """How many things are listed.

    Raises:
        RequestError: it is no list.
    """
    try:
        return len(listed)
    except TypeError as error:
        raise RequestError(f"{what}: of type {type(listed).__name__}; needs a list, one for each") from error


def texts_of(values: Any, what: str) -> np.ndarray:
    """Names of things, str ``[N]``.

    Raises:
        RequestError: they are no list of texts or numbers.
    """
    listed = values.tolist() if isinstance(values, np.ndarray) else values  # one without an axis is no list then
    if isinstance(listed, (str, bytes, Mapping)) or not isinstance(listed, Iterable):
        raise RequestError(f"{what}: of type {type(values).__name__}; needs a list of texts, one for each")
    listed = list(listed)
    for one in listed:
        if not isinstance(one, (str, int, np.integer, np.str_)):
            raise RequestError(f"{what}: {ascii(one)[:80]} is of type {type(one).__name__}; needs a list of texts")
    return np.asarray([str(one) for one in listed], dtype=str)


def class_numbers(target: Any, names: Sequence[Any] | np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Labels as class numbers, int64 ``[R]``.

    Args:
        target: whole numbers from 0, of any numeric type, one for each recording or sample.
        names: of the recordings or samples.
        classes: names of the classes.

    Raises:
        RequestError: the first label that is no class number, with its recording and what to do.
    """
    try:
        found = np.asarray(target)
    except (ValueError, TypeError, OverflowError):  # lists of different lengths, or of what is no label
        found = np.empty((len(names), 0))
    if found.ndim != 1:
        remedy = ".argmax(axis=1) makes numbers of one-hot labels" if found.ndim == 2 else "give a list of numbers"
        raise RequestError(f"labels: an array of shape {list(found.shape)}; needs one class number for each: {remedy}")
    numbers = np.full(len(found), -1.0)
    if found.dtype.kind in "buif":
        numbers = found.astype(np.float64)
    elif found.dtype.kind == "O":  # some may be numbers
        numbers = np.array([_number(one) for one in found.tolist()])
    with np.errstate(invalid="ignore"):
        bad = ~((numbers >= 0) & (numbers < len(classes)) & (numbers == np.floor(numbers)))
    if bad.any():
        first = int(np.argmax(bad))
        raise RequestError(
            f"{names[first]}: its label is {found[first]}; allowed are 0 to {len(classes) - 1}, the numbers of the "
            f"classes {_listed(classes)}; {_remedy(found, numbers, classes)}"
        )
    return numbers.astype(np.int64)


def _number(label: Any) -> float:
    """What a label says as a number; -1 where it is none, or larger than any class."""
    try:
        return float(label) if isinstance(label, (int, float, np.integer, np.floating)) else -1.0
    except OverflowError:
        return -1.0


def _listed(classes: Sequence[str], most: int = 20) -> str:
    more = f", … ({len(classes)} in all)" if len(classes) > most else ""
    return ", ".join(map(str, classes[:most])) + more


def _remedy(found: np.ndarray, numbers: np.ndarray, classes: Sequence[str]) -> str:
    """What to do about labels of this kind."""
    if found.dtype.kind in "USO" and any(isinstance(one, (str, bytes)) for one in found.tolist()):
        return "give numbers in place of text, for example classes.index(label)"
    if found.dtype.kind not in "buifO":
        return f"give whole numbers in place of {found.dtype}"
    if not np.isfinite(numbers).all() or (numbers != np.floor(numbers)).any():
        return "a label is a whole number, without a fraction"
    if set(numbers.tolist()) == {-1.0, 1.0}:
        return "of labels -1 and 1, (labels > 0) makes 0 and 1"
    if len(numbers) > 1 and numbers.min() == 1 and numbers.max() == len(classes):
        return "these labels count from 1: subtract 1"
    if numbers.min() < 0:
        return "leave out what has no class, or give it a class of its own"
    return f"name {int(numbers.max()) + 1} classes, or correct the label"
