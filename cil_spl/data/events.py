"""Events and recordings: the one event array type, checked once, at the door; and what training is handed.

An event is (x, y, t, p): pixel column and row, microseconds since the recording began, polarity
(1 = ON, 0 = OFF). Many recordings lie one after another in one flat array, so that a batch is a
gather and nothing is held twice.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.data.fields import FIELDS, named
from cil_spl.data.labels import class_numbers, count_of, texts_of
from cil_spl.data.samples import Samples

EVENT = np.dtype([("x", np.int16), ("y", np.int16), ("t", np.int32), ("p", np.int8)])
_LAST_US = np.iinfo(EVENT["t"]).max
_LATEST_US = 1 << 53  # of absolute times: the year 2255 in microseconds since 1970; larger ones are no whole floats


@dataclass(frozen=True)
class Recordings:
    """A set of event recordings.

    Attributes:
        events: flat array of dtype ``EVENT``, may be a read-only memory map.
        start, stop: where recording ``i`` lies: ``events[start[i]:stop[i]]``. Shape ``[R]``.
        target: what the task asks for, here class numbers. Shape ``[R]``, int64.
        name: what messages and figures call a recording. Shape ``[R]``, str.
        origin: identity of the digit or scene that it shows, for example ``mnist/train/17``; empty
            where unknown. Two recordings of one origin show the same thing. Shape ``[R]``, str.
        sensor_size: (width, height, polarities), as tonic has it.
        classes: the names of the classes, in the order of their numbers.
    """

    events: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    target: np.ndarray
    name: np.ndarray
    origin: np.ndarray
    sensor_size: tuple[int, int, int]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, i: int) -> np.ndarray:
        """Events of recording ``i``."""
        return self.events[self.start[i] : self.stop[i]]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a frame."""
        width, height, polarities = self.sensor_size
        return polarities, height, width

    def subset(self, index: np.ndarray | Sequence[int]) -> Recordings:
        """The recordings ``index``, in that order; events are shared, not copied."""
        index = np.asarray(index, dtype=np.int64)
        picked = {field: getattr(self, field)[index] for field in ("start", "stop", "target", "name", "origin")}
        return replace(self, **picked)

    def take(self, index: np.ndarray | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Events of the recordings ``index`` one after another, and their offsets ``[B + 1]``; -1 is an empty one."""
        index = np.asarray(index, dtype=np.int64)
        start = np.where(index >= 0, self.start[index], 0)
        stop = np.where(index >= 0, self.stop[index], 0)
        offsets = np.zeros(len(index) + 1, np.int64)
        np.cumsum(stop - start, out=offsets[1:])
        # As opaque bytes numpy copies a recording in one go; as records it goes field by field, ten times slower.
        opaque = np.dtype((np.void, EVENT.itemsize))
        source, out = self.events.view(opaque), np.empty(offsets[-1], opaque)
        for b in range(len(index)):
            out[offsets[b] : offsets[b + 1]] = source[start[b] : stop[b]]
        return out.view(EVENT), offsets


Data = Recordings | Samples  # both have len, input_shape, target, name, origin, classes, subset and take


@dataclass(frozen=True)
class Splits:
    """One experience: what is trained on, chosen on and reported on.

    Attributes:
        outputs: the network's outputs that this experience uses, one of several (task-incremental learning); None for
            all.
        drawn_from: a hash of all that training and validation data were drawn from, whatever the seed; empty where
            that is not known.
    """

    train: Data
    val: Data
    test: Data
    outputs: tuple[int, ...] | None = None
    drawn_from: str = ""


def joined(parts: Sequence[Recordings]) -> Recordings:
    """Sets of one sensor size and the same classes, one after another."""
    if len(parts) == 1:
        return parts[0]
    flat = [part.take(np.arange(len(part))) for part in parts]
    ends = np.cumsum([0, *(len(events) for events, _ in flat)])
    return replace(
        parts[0],
        events=np.concatenate([events for events, _ in flat]),
        start=np.concatenate([offsets[:-1] + end for (_, offsets), end in zip(flat, ends, strict=False)]),
        stop=np.concatenate([offsets[1:] + end for (_, offsets), end in zip(flat, ends, strict=False)]),
        target=np.concatenate([part.target for part in parts]),
        name=np.concatenate([part.name for part in parts]),
        origin=np.concatenate([part.origin for part in parts]),
    )


def check_events(events: np.ndarray, sensor_size: tuple[int, int, int], name: str = "recording") -> np.ndarray:
    """Check one recording and return it as ``EVENT``.

    Args:
        events: structured array with fields x, y, t (microseconds) and p, or other common names of them (``timestamp``,
            ``polarity``, see :mod:`cil_spl.data.fields`), of any numeric type. p may be boolean, or -1 and 1.
        sensor_size: (width, height, polarities).
        name: what the message calls the recording.

    Returns:
        Events, shape ``[N]``. Times beyond 32 bits are counted from the first event.

    Raises:
        RequestError: a field is missing or no number, a value is not a finite whole number, an event lies
            outside the sensor, time is negative, runs backwards, or goes on for longer than 32 bits. The
            message names the recording and the first such event.
    """
    columns = _columns(events, name)
    width, height, polarities = _checked_size(sensor_size)
    limits = {"x": width - 1, "y": height - 1, "t": _LATEST_US, "p": max(polarities - 1, 1 if polarities == 1 else 0)}
    out = np.empty(len(events), EVENT)
    for field, top in limits.items():
        values = columns[field]
        if values.dtype.kind == "f":
            values = values.astype(np.float64)  # of 16 bits, limits below would be infinite
            bad = ~np.isfinite(values) | (values != np.floor(values))
            hint = "; times are whole microseconds: multiply seconds by 1e6, and round" if field == "t" else ""
            _refuse(bad, values, name, field, f"is not a whole number{hint}")
        if field == "p":
            values = _without_signs(values)
        low = values < 0 if values.dtype.kind in "if" else np.zeros(len(values), bool)
        if field == "t":
            _refuse(low, values, name, field, f"is outside 0..{_LAST_US}; subtract the first event's time from all")
            _refuse(values > top, values, name, field, "no recording has; are these nanoseconds? Give microseconds")
            values = _in_32_bits(values, name)
        else:
            _refuse(low | (values > top), columns[field], name, field, f"is outside 0..{top}")
        out[field] = values
    return out


def _columns(events: Any, name: str) -> dict[str, np.ndarray]:
    """The four fields of a list of events, each of plain numbers."""
    if not isinstance(events, np.ndarray):
        raise RequestError(f"{name}: of type {type(events).__name__}; needs an array of events with fields x, y, t, p")
    found = named(events.dtype.names or (), name)
    missing = [field for field in FIELDS if field not in found]
    if missing:
        raise RequestError(f"{name}: the event array has no field {', '.join(missing)} (needs x, y, t, p)")
    if events.ndim != 1:
        raise RequestError(f"{name}: events in an array of shape {list(events.shape)}; needs a list of them, [N]")
    columns = {field: events[column] for field, column in found.items()}
    for field, values in columns.items():
        if values.dtype.kind not in ("buif" if field == "p" else "uif") or values.ndim != 1:
            what = "whole microseconds" if field == "t" else "whole numbers"
            raise RequestError(f"{name}: its {found[field]} is of type {events.dtype[found[field]]}; needs {what}")
    return columns


def _checked_size(sensor_size: Sequence[int]) -> tuple[int, int, int]:
    """Of a sensor whose events fit ``EVENT``."""
    most = (np.iinfo(EVENT["x"]).max, np.iinfo(EVENT["y"]).max, np.iinfo(EVENT["p"]).max)
    try:
        width, height, polarities = (operator.index(n) for n in sensor_size)
        if all(1 <= n <= top for n, top in zip((width, height, polarities), most, strict=True)):
            return width, height, polarities
    except (TypeError, ValueError):
        pass
    given = " ".join(ascii(sensor_size)[:80].split())
    raise RequestError(f"sensor_size={given}: needs (width, height, polarities), whole numbers from 1, up to {most}")


def _without_signs(polarity: np.ndarray) -> np.ndarray:
    """-1 and 1, where there is no 0, as 0 and 1."""
    if polarity.dtype.kind not in "if" or not (polarity == -1).any() or not np.isin(polarity, (-1, 1)).all():
        return polarity
    return polarity > 0


def _in_32_bits(t: np.ndarray, name: str) -> np.ndarray:
    """Times from 0 in order; counted from the first event where they are absolute ones that 32 bits do not hold."""
    backwards = np.zeros(len(t), bool)
    backwards[1:] = t[1:] < t[:-1]
    remedy = "time runs backwards; sort them: events[np.argsort(events['t'], kind='stable')]"
    _refuse(backwards, t, name, "t", f"is before the event ahead of it: {remedy}")
    if not len(t) or t[-1] <= _LAST_US:
        return t
    since = t - t[0]
    why = f"is outside 0..{_LAST_US} after the first event; cut the recording, and give times in microseconds"
    _refuse(since > _LAST_US, t, name, "t", why)
    return since


def _refuse(bad: np.ndarray, values: np.ndarray, name: str, field: str, why: str) -> None:
    if bad.any():
        i = int(np.argmax(bad))
        raise RequestError(f"{name}: event {i} has {field}={values[i]}, which {why}")


def from_list(
    recordings: Sequence[np.ndarray],
    target: Sequence[int] | np.ndarray,
    sensor_size: tuple[int, int, int],
    classes: Sequence[str],
    names: Sequence[str] | None = None,
    origins: Sequence[str] | None = None,
) -> Recordings:
    """Recordings from separate event arrays; each is checked.

    Raises:
        RequestError: labels, names or origins are not as many as recordings, a label is no number of a class, or an
            event cannot be (see :func:`check_events`).
    """
    n = count_of(recordings, "from_list: recordings")
    names = [f"recording {i}" for i in range(n)] if names is None else texts_of(names, "from_list: names").tolist()
    origins = [""] * n if origins is None else texts_of(origins, "from_list: origins").tolist()
    classes = texts_of(list(classes) if isinstance(classes, str) else classes, "from_list: classes").tolist()
    sensor_size = _checked_size(sensor_size)
    for what, listed in (("labels", target), ("names", names), ("origins", origins)):
        if count_of(listed, f"from_list: {what}") != n:
            raise RequestError(f"from_list: {n} recordings, but {len(listed)} {what}; needs one for each recording")
    labels = class_numbers(target, names, classes)
    checked = [check_events(e, sensor_size, n) for e, n in zip(recordings, names, strict=True)]
    stop = np.cumsum([len(e) for e in checked], dtype=np.int64)
    start = stop - np.array([len(e) for e in checked], dtype=np.int64)
    return Recordings(
        events=np.concatenate(checked) if checked else np.empty(0, EVENT),
        start=start,
        stop=stop,
        target=labels,
        name=np.asarray(names, dtype=str),
        origin=np.asarray(origins, dtype=str),
        sensor_size=sensor_size,
        classes=tuple(classes),
    )


def check_recordings(recordings: Recordings, what: str) -> None:
    """Refuse recordings whose parts do not belong together; those of :func:`from_list` always do.

    Args:
        what: how messages call them.

    Raises:
        RequestError: names the part, or the recording with a label that is no class.
    """
    n = np.size(recordings.start)
    for field in ("start", "stop", "target", "name", "origin"):
        values = getattr(recordings, field)
        if not isinstance(values, np.ndarray) or values.shape != (n,):
            found = f"shape {values.shape}" if isinstance(values, np.ndarray) else f"type {type(values).__name__}"
            raise RequestError(f"{what}: {field} is of {found}; needs an array of shape ({n},), one for each recording")
    for field, kinds in (("start", "iu"), ("stop", "iu"), ("name", "U"), ("origin", "U")):
        if n and getattr(recordings, field).dtype.kind not in kinds:
            raise RequestError(f"{what}: {field} is an array of {getattr(recordings, field).dtype}; see from_list")
    events = recordings.events
    if not isinstance(events, np.ndarray) or events.dtype != EVENT or events.ndim != 1:
        found = f"{events.dtype}" if isinstance(events, np.ndarray) else f"type {type(events).__name__}"
        raise RequestError(f"{what}: events are of {found}; needs a flat array of {EVENT}, see from_list")
    _checked_size(recordings.sensor_size)
    texts_of(recordings.classes, f"{what}: classes")
    wrong = (recordings.start < 0) | (recordings.stop < recordings.start) | (recordings.stop > len(recordings.events))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise RequestError(
            f"{what}: {recordings.name[i]} lies at events {recordings.start[i]} to {recordings.stop[i]} of "
            f"{len(recordings.events)}; see from_list"
        )
    class_numbers(recordings.target, recordings.name, recordings.classes)


def shuffled_within(recordings: Recordings, within_us: int, seed: int) -> Recordings:
    """The same events, each at a random time of its own window, so that their order within windows is another.

    Args:
        recordings: not changed.
        within_us: windows of so many microseconds, from 0 on.
        seed: of the times.
    """
    events, offsets = recordings.take(np.arange(len(recordings)))
    times = events["t"].astype(np.int64)
    drawn = np.random.default_rng(seed).integers(0, within_us, len(times))
    times = times // within_us * within_us + drawn
    of = np.repeat(np.arange(len(recordings)), np.diff(offsets))
    order = np.lexsort((times, of))
    events = events[order]
    events["t"] = times[order]
    return replace(recordings, events=events, start=offsets[:-1], stop=offsets[1:])
