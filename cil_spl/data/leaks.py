"""What must not be trained on: what the user leaves out, and what also stands in the test set."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.events import Data

_SHOWN = 5
TEST_DATASET = "test_dataset"  # the word for what the test set shows
log = logging.getLogger(__name__)


def listed(exclude: Any) -> set[str] | str | None:
    """``dataset.exclude_indices``: None, the word ``test_dataset``, or a set of origins and their endings.

    Raises:
        RequestError: it names a file that cannot be read.
    """
    if exclude is None or exclude == TEST_DATASET:
        return exclude
    if isinstance(exclude, str):
        try:
            lines = Path(exclude).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise RequestError(
                f"dataset.exclude_indices={exclude}: no such text file ({error}); allowed are null, a list, a file "
                "with one entry a line, and the word test_dataset"
            ) from error
        return {line.strip() for line in lines if line.strip() and not line.startswith("#")}
    return {str(e) for e in exclude}


def without(part: Data, wanted: set[str] | str, test: Data) -> Data:
    """The part whose origin is not wanted: ``mnist/train/5`` answers to itself, to ``train/5`` and to ``5``."""
    if not len(part):
        return part
    if isinstance(wanted, str):
        out = np.isin(part.origin, test.origin[test.origin != ""])
    else:
        out = np.array([any(tail in wanted for tail in _tails(o)) for o in part.origin.tolist()])
    log.info("dataset.exclude_indices leaves out %d of %d in training", out.sum(), len(part))
    return part.subset(np.flatnonzero(~out))


def warn_unmatched(parts: Sequence[Data], wanted: set[str] | str) -> None:
    """Tell the user of entries that leave nothing out: a slip of the pen would train on what it was to leave out."""
    if isinstance(wanted, str):
        return
    known = {tail for part in parts for origin in part.origin.tolist() for tail in _tails(origin)}
    missed = sorted(wanted - known)
    if missed:
        log.warning(
            "dataset.exclude_indices: %d of %d entries match nothing to train on: %s%s",
            len(missed), len(wanted), ", ".join(missed[:_SHOWN]), ", …" if len(missed) > _SHOWN else "",
        )  # fmt: skip


def _tails(origin: str) -> list[str]:
    steps = origin.split("/")
    return ["/".join(steps[i:]) for i in range(len(steps))] if origin else []


def check(part: Data, test: Data, what: str = "recordings") -> None:
    """Refuse to train on what is tested on.

    Raises:
        RequestError: names one that stands in both.
    """
    both = np.isin(part.origin, test.origin) & (part.origin != "")
    if not both.any():
        return
    i = int(np.argmax(both))
    j = int(np.argmax(test.origin == part.origin[i]))
    raise RequestError(
        f"{both.sum()} of {len(part)} training {what} show what is also in the test set, for example "
        f"{part.origin[i]} ({part.name[i]} in training, {test.name[j]} in the test set); leave them out of training "
        "with dataset.exclude_indices=test_dataset"
    )
