"""The metrics of a task that rows and the results table show. Without torch, for ``cilspl table``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """A metric that a run's row and the results table show for each network.

    Attributes:
        metric: its name, one word.
        percent: whether it is a fraction from 0 to 1, written in per cent.
    """

    metric: str
    percent: bool = False


CLASSIFICATION = (Column("accuracy", percent=True),)


def columns_text(columns: Sequence[Column]) -> str:
    """``accuracy %, mse``: columns as a row keeps them, one text in a folder and in the store."""
    return ", ".join(f"{column.metric} %" if column.percent else column.metric for column in columns)


def read_columns(text: str) -> tuple[Column, ...]:
    """The columns that :func:`columns_text` wrote."""
    words = [part.split() for part in text.split(",") if part.strip()]
    return tuple(Column(name, percent=rest == ["%"]) for name, *rest in words)
