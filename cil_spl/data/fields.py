"""Which of the names in a file mean x, y, t and p."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from cil_spl.base.errors import RequestError

FIELDS = ("x", "y", "t", "p")
_NAMES = {
    "x": ("x", "xs", "x_addr", "addr_x", "x_address", "x_coord", "coord_x", "x_pos", "pos_x", "col", "column"),
    "y": ("y", "ys", "y_addr", "addr_y", "y_address", "y_coord", "coord_y", "y_pos", "pos_y", "row"),
    "t": ("t", "ts", "time", "times", "timestamp", "timestamps", "time_stamp", "time_stamps"),
    "p": ("p", "ps", "pol", "pols", "polarity", "polarities"),
}
_FIELD = {name: field for field, names in _NAMES.items() for name in names}
_MICROSECONDS = ("us", "usec", "usecs", "microsecond", "microseconds", "\u00b5s", "\u03bcs")  # micro sign, Greek mu
_SECONDS = ("s", "sec", "secs", "second", "seconds")
_PARTS = ("ms", "msec", "millisecond", "milliseconds", "ns", "nsec", "nanosecond", "nanoseconds")
_UNIT = re.compile(r"\s*[\[(<]\s*([^\])>]*?)\s*[\])>]\s*$")


def field_of(name: str) -> tuple[str | None, str | None]:
    """What a column's name means: x, y, t, p, or None; and the unit that it gives to times, None for microseconds.

    ``timestamp``, ``Time (us)`` and ``t_us`` mean t; ``time_ms`` means t too, in ``ms``.
    """
    text = name.strip().strip("\"'").strip().lower()
    unit = None
    if found := _UNIT.search(text):
        unit, text = found[1], text[: found.start()]
    text = re.sub(r"[\s\-.]+", "_", text)
    if text not in _FIELD:
        front, _, last = text.rpartition("_")
        if last in (*_MICROSECONDS, *_SECONDS, *_PARTS):
            text, unit = front, last
    field = _FIELD.get(text)
    return field, unit if field == "t" and unit not in (None, "", *_MICROSECONDS) else None


def named(names: Iterable[str], what: str) -> dict[str, str]:
    """The column of each field, as far as there is one.

    Args:
        names: of the columns; those that mean nothing here are passed over.
        what: how messages call the file or recording.

    Raises:
        RequestError: two columns mean the same field, or times are not in microseconds.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        field, unit = field_of(name)
        if unit is not None:
            raise RequestError(f"{what}: its times are in {unit} ({name}); convert them to whole microseconds")
        if field is not None:
            found.setdefault(field, []).append(name)
    for field, columns in found.items():
        exact = [name for name in columns if name == field]
        if len(columns) > 1 and len(exact) != 1:
            raise RequestError(f"{what}: {' and '.join(columns)} both mean {field}; keep one of them")
        found[field] = exact or columns
    return {field: found[field][0] for field in FIELDS if field in found}


def is_header(names: Sequence[str], at_least: int = 2) -> bool:
    """Whether the words of a line are names of columns: so many of the four fields are among them."""
    return len({field_of(name)[0] for name in names} - {None}) >= at_least
