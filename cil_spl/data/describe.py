"""What a data set holds, in numbers, and a picture of one recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cil_spl.data.events import Recordings, Splits

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def describe(splits: Splits) -> dict[str, Any]:
    """The numbers of a data set.

    Returns:
        ``sensor_size``, ``classes``, and for each of ``train``, ``val`` and ``test`` a dictionary: ``recordings``;
        ``per_class``, recordings by name of class; ``events``, of a recording: min, mean and max; ``on_share``, from
        0 to 1; ``duration_ms``, time of a recording's last event: min, mean and max. Numbers of an empty split are
        None.
    """
    about: dict[str, Any] = {
        "sensor_size": list(splits.train.sensor_size),
        "classes": list(splits.train.classes),
    }
    for name in ("train", "val", "test"):
        about[name] = _numbers(getattr(splits, name))
    return about


def _numbers(recordings: Recordings) -> dict[str, Any]:
    n_events = recordings.stop - recordings.start
    per_class = np.bincount(recordings.target, minlength=len(recordings.classes))
    full = n_events > 0
    last_ms = recordings.events["t"][recordings.stop[full] - 1] / 1000
    # Recording by recording: a memory-mapped set need not fit into memory.
    on = sum(int(np.count_nonzero(recordings[i]["p"])) for i in range(len(recordings)))
    return {
        "recordings": len(recordings),
        "per_class": dict(zip(recordings.classes, per_class.tolist(), strict=True)),
        "events": _range(n_events),
        "on_share": on / int(n_events.sum()) if n_events.sum() else None,
        "duration_ms": _range(last_ms),
    }


def _range(values: np.ndarray) -> dict[str, float] | None:
    if not len(values):
        return None
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def picture(events: np.ndarray, sensor_size: tuple[int, int, int], title: str = "") -> Figure:
    """A recording at a glance: ON minus OFF counts in each third of its time, and its event rate.

    Args:
        events: one recording, dtype ``EVENT``. Shape ``[N]``.
        sensor_size: (width, height, polarities).
        title: over the picture.

    Returns:
        A figure that belongs to no window; save it with ``figure.savefig``.
    """
    from matplotlib.figure import Figure

    from cil_spl.data.frames import bin_edges, frames

    offsets = np.array([0, len(events)])
    edges_us = bin_edges(events, offsets, 3)
    counts = frames(events, offsets, edges_us, sensor_size)[:, 0]  # T C H W
    shown = counts[:, 1] - counts[:, 0] if sensor_size[2] == 2 else counts[:, 0]
    most = max(float(np.abs(shown).max()), 1.0)

    figure = Figure(figsize=(9, 5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[3, 2])[:, 0]
    figure.suptitle(title or f"{len(events)} events")
    for t, axes in enumerate(top.subplots(1, 3)):
        image = axes.imshow(shown[t], cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
        axes.set_title(f"{edges_us[0, t] / 1000:.0f} to {edges_us[0, t + 1] / 1000:.0f} ms", fontsize="medium")
    label = "ON minus OFF events" if sensor_size[2] == 2 else "events"
    top.colorbar(image, ax=top.axes, label=label)

    axes = bottom.subplots()
    end_ms = edges_us[0, -1] / 1000
    steps = np.linspace(0, end_ms, 61)
    for p, (name, colour) in enumerate([("OFF", "tab:blue"), ("ON", "tab:red")]):
        chosen = events["t"][events["p"] == p] / 1000
        if len(chosen) or sensor_size[2] == 2:
            rate = np.histogram(chosen, steps)[0] / (end_ms / 60)
            axes.stairs(rate, steps, color=colour, label=name if sensor_size[2] == 2 else "events")
    axes.set_xlabel("time (ms)")
    axes.set_ylabel("events per ms")
    if axes.has_data():
        axes.legend(frameon=False)
    return figure
