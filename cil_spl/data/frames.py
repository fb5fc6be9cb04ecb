"""Events to time bins: edges in whole microseconds, and counts per bin, polarity and pixel.

One rule, shared with the simulated chip: bin ``t`` holds the events with ``edges[t] <= time < edges[t + 1]``; what
comes after the last edge belongs to the last bin, what comes before the first edge to the first. So the counts of a
recording's frames always sum to its number of events.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from cil_spl.base.sources import BASE, text_of
from cil_spl.base.threads import in_threads, next_of
from cil_spl.data.options import check_bins as check_bins


def bin_edges(
    events: np.ndarray, offsets: np.ndarray, bins: int, by: str = "time", duration_us: int | None = None
) -> np.ndarray:
    """Edges of the time bins of every recording.

    Args:
        events: flat array of dtype ``EVENT``, time-sorted within a recording. Shape ``[N]``.
        offsets: recording ``b`` is ``events[offsets[b]:offsets[b + 1]]``. Shape ``[B + 1]``.
        bins: T, the number of bins.
        by: ``time`` cuts each recording's own span, from 0 to one microsecond after its last event, into equal
            parts; ``count`` puts as nearly the same number of events into each bin as whole microseconds allow
            (events of one microsecond are never parted).
        duration_us: for ``time``, the span to cut instead, the same for all recordings.

    Returns:
        int64 ``[B, T + 1]``, never decreasing, the first edge 0; the last one is beyond the last event unless
        ``duration_us`` says otherwise.

    Raises:
        RequestError: a value is out of range, or ``duration_us`` is given with ``by="count"``.
    """
    check_bins(bins, by, duration_us)
    offsets = np.asarray(offsets, np.int64)
    if by == "count":
        return _edges_by_count(events["t"], offsets, bins)
    if duration_us is None:
        last = np.full(len(offsets) - 1, -1, np.int64)
        full = offsets[1:] > offsets[:-1]
        last[full] = events["t"][offsets[1:][full] - 1]
        span = np.maximum(last + 1, 1)  # an empty recording still has a last edge beyond its first
    else:
        span = np.full(len(offsets) - 1, duration_us, np.int64)
    return span[:, None] * np.arange(bins + 1, dtype=np.int64) // bins


def frames(
    events: np.ndarray, offsets: np.ndarray, edges_us: np.ndarray, sensor_size: tuple[int, int, int]
) -> np.ndarray:
    """Event counts per bin, polarity and pixel.

    Args:
        events: flat array of dtype ``EVENT``, time-sorted within a recording. Shape ``[N]``.
        offsets: recording ``b`` is ``events[offsets[b]:offsets[b + 1]]``. Shape ``[B + 1]``.
        edges_us: edges from ``bin_edges``. Shape ``[B, T + 1]``.
        sensor_size: (width, height, polarities); one polarity puts all events into one channel.

    Returns:
        float32 ``[T, B, C, H, W]``, channel 0 is OFF and 1 is ON; a pixel's channels lie together, as (T, B, H, W, C).

    Raises:
        ValueError: an event lies outside the sensor.
    """
    width, height, channels = sensor_size
    out = np.zeros((edges_us.shape[1] - 1, len(offsets) - 1, height, width, channels), np.float32)
    found = np.full(len(offsets) - 1, -1)
    in_threads(_count, len(found), events, np.asarray(offsets, np.int64), edges_us, out, found)
    if (found >= 0).any():
        outside = found[found >= 0][0]
        raise ValueError(f"event {outside} of the batch is outside the sensor {sensor_size}: {events[outside]}")
    return out.transpose(0, 1, 4, 2, 3)  # T B H W C -> T B C H W


def _kept(sources: str) -> Any:
    @numba.njit(cache=True, nogil=True)
    def count(counter, events, offsets, edges_us, out, outside):  # type: ignore[no-untyped-def]
        _ = sources
        bins, height, width, channels = len(out), out.shape[2], out.shape[3], out.shape[4]
        while True:
            b = next_of(counter)
            if b >= len(offsets) - 1:
                return
            at = 0
            for i in range(offsets[b], offsets[b + 1]):
                event = events[i]
                while at + 1 < bins and event.t >= edges_us[b, at + 1]:
                    at += 1
                x, y, c = event.x, event.y, (event.p if channels > 1 else 0)
                if not (0 <= x < width and 0 <= y < height and 0 <= c < channels):
                    outside[b] = i
                    break
                out[at, b, y, x, c] += 1

    return count


_count = _kept(text_of(BASE / "threads.py"))


@numba.njit(cache=True, nogil=True)
def _edges_by_count(t, offsets, bins):  # type: ignore[no-untyped-def]
    edges = np.zeros((len(offsets) - 1, bins + 1), np.int64)
    for b in range(len(offsets) - 1):
        begin, end = offsets[b], offsets[b + 1]
        n = end - begin
        last = np.int64(t[end - 1]) + 1 if n else np.int64(1)
        edges[b, bins] = last
        if n == 0:
            continue
        low = high = 0  # neighbouring cuts: before event low, before event high; times differ across each
        for k in range(1, bins):
            while high < n and high * bins < k * n:
                low = high
                high += 1
                while high < n and t[begin + high] == t[begin + high - 1]:
                    high += 1
            # The wanted cut k*n/bins lies in (low, high]: take the nearer of the two, the earlier if both are.
            cut = low if k * n - low * bins <= high * bins - k * n else high
            edges[b, k] = 0 if cut == 0 else (np.int64(t[begin + cut]) if cut < n else last)
    return edges
