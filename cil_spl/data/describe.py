"""What a data set holds, in numbers, and a picture of one recording or sample."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cil_spl.data.events import Data, Recordings, Splits
from cil_spl.data.samples import Samples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BLOCK = 4096  # samples looked at at once, to bound memory


def describe(splits: Splits) -> dict[str, Any]:
    """The numbers of a data set.

    Returns:
        ``sensor_size`` of recordings or ``input_shape`` of samples, ``classes`` (None where there are none), and for
        each of ``train``, ``val`` and ``test`` a dictionary: ``recordings`` or ``samples``, how many; ``per_class``, by
        name of class. Of recordings: ``events``, of a recording: min, mean and max; ``on_share``, from 0 to 1;
        ``duration_ms``, time of a recording's last event: min, mean and max. Of samples: ``values``: min, mean and max;
        ``deviation``, their standard deviation. Numbers of an empty split are None.
    """
    whole = splits.train
    about: dict[str, Any] = {"classes": None if whole.classes is None else list(whole.classes)}
    if isinstance(whole, Samples):
        about["input_shape"] = list(whole.input_shape)
    else:
        about["sensor_size"] = list(whole.sensor_size)
    for name in ("train", "val", "test"):
        part = getattr(splits, name)
        about[name] = _of_samples(part) if isinstance(part, Samples) else _of_recordings(part)
    return about


def _of_recordings(recordings: Recordings) -> dict[str, Any]:
    n_events = recordings.stop - recordings.start
    full = n_events > 0
    last_ms = recordings.events["t"][recordings.stop[full] - 1] / 1000
    # Recording by recording: a memory-mapped set need not fit into memory.
    on = sum(int(np.count_nonzero(recordings[i]["p"])) for i in range(len(recordings)))
    return {
        "recordings": len(recordings),
        "per_class": _per_class(recordings),
        "events": _range(n_events),
        "on_share": on / int(n_events.sum()) if n_events.sum() else None,
        "duration_ms": _range(last_ms),
    }


def _of_samples(samples: Samples) -> dict[str, Any]:
    about = {"samples": len(samples), "per_class": _per_class(samples), "values": None, "deviation": None}
    if not len(samples):
        return about
    low, high, total, squares = np.inf, -np.inf, 0.0, 0.0
    for begin in range(0, len(samples), _BLOCK):
        values = samples.take(np.arange(begin, min(begin + _BLOCK, len(samples)))).astype(np.float64)
        low, high = min(low, values.min()), max(high, values.max())
        total, squares = total + values.sum(), squares + (values**2).sum()
    n = len(samples) * int(np.prod(samples.input_shape))
    values_of = {"min": float(low), "mean": float(total / n), "max": float(high)}
    return about | {"values": values_of, "deviation": float(np.sqrt(max(squares / n - (total / n) ** 2, 0.0)))}


def _per_class(data: Data) -> dict[str, int] | None:
    if data.classes is None:
        return None
    return dict(zip(data.classes, np.bincount(data.target, minlength=len(data.classes)).tolist(), strict=True))


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


def picture_of_values(values: np.ndarray, title: str = "") -> Figure:
    """A sample at a glance: three channels as red, green and blue, otherwise each by itself.

    Args:
        values: one sample. Shape ``[C, H, W]``.
        title: over the picture.

    Returns:
        A figure that belongs to no window; save it with ``figure.savefig``.
    """
    from matplotlib.figure import Figure

    low, span = float(values.min()), float(np.ptp(values)) or 1.0
    shown = [((values - low) / span).transpose(1, 2, 0)] if len(values) == 3 else list(values)  # C H W -> H W C
    figure = Figure(figsize=(4 * len(shown), 4), layout="constrained")
    for axes, channel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        image = axes.imshow(channel, cmap="gray", interpolation="nearest")
        if channel.ndim == 2:
            figure.colorbar(image, ax=axes)
    figure.suptitle(title)
    return figure
