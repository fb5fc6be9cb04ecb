"""When a recording begins: the one rule for times that do not count from its start.

A recording whose first event lies inside ``frames.duration_us`` (where that is null: inside its own length, from its
first event to its last) stays as it is. One that begins later has times of another clock, and is counted from its first
event. The rule is applied once, to recordings as the sensor gave them, before anything looks at their times.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cil_spl.data.events import Recordings


def begins_late(recordings: Recordings, duration_us: int | None = None) -> np.ndarray:
    """Which recordings begin at ``duration_us`` or later, or, where it is None, after longer than they last.

    Shape ``[R]``, bool.
    """
    late = np.zeros(len(recordings), bool)
    full = recordings.stop > recordings.start
    t = recordings.events["t"]
    first, last = (t[at].astype(np.int64) for at in (recordings.start[full], recordings.stop[full] - 1))
    late[full] = (first > 0) & (first >= (last - first if duration_us is None else duration_us))
    return late


def from_first_event(recordings: Recordings, duration_us: int | None = None) -> Recordings:
    """The recordings, with those that begin late counted from their first event; the very same ones where none does."""
    late = begins_late(recordings, duration_us)
    if not late.any():
        return recordings
    events, offsets = recordings.take(np.arange(len(recordings)))
    for i in np.flatnonzero(late):
        events["t"][offsets[i] : offsets[i + 1]] -= events["t"][offsets[i]]
    return replace(recordings, events=events, start=offsets[:-1], stop=offsets[1:])
