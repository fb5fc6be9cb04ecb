"""What the chip's pre-processing stage does to sensor events before the first core, on recordings.

Order, as the vendor's software applies it (sinabs' ``DVSLayer``, with the stage's polarity switch first):

1. polarity: both channels, both merged into one, or only one of them
2. sum pooling by 1, 2 or 4: the event moves to pixel (x // pool, y // pool); events of an odd-sized map beyond the
   last full window are dropped (an assumption about the chip)
3. crop, in pixels after pooling
4. mirror, x and y
5. rotation in steps of 90 degrees, which the chip makes of mirrors and a swap of x and y

No step adds or reorders events; times stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np

from cil_spl.base.annotations import Says
from cil_spl.base.errors import RequestError
from cil_spl.base.options import check_fields, checked
from cil_spl.data.events import EVENT, Recordings


@dataclass(frozen=True)
class Preprocess:
    """Settings of the stage.

    Attributes:
        polarity: ``both`` keeps OFF and ON as two channels; ``merge`` puts both into one, ``on`` and ``off`` keep one
            of them as the only channel.
        pool: 1, 2 or 4.
        crop: (left, top, width, height) of what is kept, in pixels after pooling; None for all.
        mirror_x, mirror_y: x (y) counts from the other side.
        rotate: 0, 90, 180 or 270 degrees clockwise, as the picture is seen (y downward).

    Raises:
        RequestError: a value is not allowed.
    """

    polarity: Literal["both", "merge", "on", "off"] = "both"
    pool: Literal[1, 2, 4] = 1
    crop: Annotated[tuple[int, int, int, int] | None, Says("[left, top, width, height] in whole pixels, or null")] = (
        None
    )
    mirror_x: bool = False
    mirror_y: bool = False
    rotate: Literal[0, 90, 180, 270] = 0

    def __post_init__(self) -> None:
        check_fields(self, "dataset.preprocess")

    @classmethod
    def from_config(cls, config: Mapping[str, Any] | Preprocess | None) -> Preprocess:
        """From the keys of ``dataset.preprocess``; what is absent stays as it is.

        Raises:
            RequestError: an unknown key, or a value that is not allowed.
        """
        if isinstance(config, Preprocess):
            return config
        given = checked(cls, config or {}, "dataset.preprocess")
        return cls(**given | {"crop": None if given["crop"] is None else tuple(given["crop"])})


def preprocessed_sensor_size(
    sensor_size: tuple[int, int, int], preprocess: Mapping[str, Any] | Preprocess | None
) -> tuple[int, int, int]:
    """(width, height, polarities) after the stage, from sizes alone.

    Raises:
        RequestError: the settings are not allowed, or do not go with this sensor.
    """
    stage = Preprocess.from_config(preprocess)
    width, height, polarities = (int(v) for v in sensor_size)
    if stage.polarity in ("on", "off") and polarities == 1:
        raise RequestError(f"dataset.preprocess.polarity={stage.polarity}: the recordings have one polarity only")
    if stage.polarity != "both":
        polarities = 1
    width, height = width // stage.pool, height // stage.pool
    if stage.crop is not None:
        left, top, crop_width, crop_height = stage.crop
        inside = 0 <= left < left + crop_width <= width and 0 <= top < top + crop_height <= height
        if not inside:
            raise RequestError(
                f"dataset.preprocess.crop={list(stage.crop)} ([left, top, width, height]) is not inside the "
                f"{width} x {height} pixels that pooling by {stage.pool} leaves"
            )
        width, height = crop_width, crop_height
    if width < 1 or height < 1:
        raise RequestError(f"dataset.preprocess.pool={stage.pool}: nothing is left of {sensor_size[:2]} pixels")
    if stage.rotate in (90, 270):
        width, height = height, width
    return width, height, polarities


def preprocess_recordings(
    recordings: Recordings, preprocess: Mapping[str, Any] | Preprocess | None, *, block: int = 1 << 24
) -> Recordings:
    """The recordings after the stage.

    Args:
        recordings: as the sensor gave them.
        preprocess: settings, or the keys of ``dataset.preprocess``.
        block: events worked on at once, to bound the memory of large sets.

    Returns:
        New recordings with their new ``sensor_size``; the very same ones where the stage changes nothing. A recording
        may be left without events.

    Raises:
        RequestError: as ``preprocessed_sensor_size``.
    """
    stage = Preprocess.from_config(preprocess)
    sensor_size = preprocessed_sensor_size(recordings.sensor_size, stage)
    if stage == Preprocess():
        return recordings
    events, offsets = recordings.events, np.append(recordings.start, recordings.stop[-1:])
    if len(recordings) and (recordings.start[1:] != recordings.stop[:-1]).any():
        events, offsets = recordings.take(np.arange(len(recordings)))
    first = int(offsets[0]) if len(recordings) else 0
    end = int(offsets[-1]) if len(recordings) else 0
    parts: list[np.ndarray] = [np.empty(0, EVENT)]
    kept_before = np.zeros(len(offsets), np.int64)  # kept events ahead of each offset
    kept = 0
    for begin in range(first, end, block):
        part = events[begin : min(begin + block, end)]
        keep, out = _stage(part, recordings.sensor_size, stage)
        # Offsets inside this block: kept events of earlier blocks, plus those of this one ahead of the offset.
        count = np.concatenate([[0], np.cumsum(keep)])
        here = (offsets >= begin) & (offsets <= begin + len(part))
        kept_before[here] = kept + count[offsets[here] - begin]
        kept += len(out)
        parts.append(out)
    return replace(
        recordings,
        events=np.concatenate(parts),
        start=kept_before[:-1],
        stop=kept_before[1:],
        sensor_size=sensor_size,
    )


def _stage(events: np.ndarray, sensor_size: tuple[int, int, int], stage: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Which events are kept, and those, changed."""
    width, height = sensor_size[0] // stage.pool, sensor_size[1] // stage.pool
    x, y = events["x"] // stage.pool, events["y"] // stage.pool
    left, top, width, height = stage.crop or (0, 0, width, height)
    x, y = x - left, y - top
    keep = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if stage.polarity in ("on", "off"):
        keep &= events["p"] == (stage.polarity == "on")
    out = events[keep]
    x, y = x[keep], y[keep]
    if stage.mirror_x:
        x = width - 1 - x
    if stage.mirror_y:
        y = height - 1 - y
    if stage.rotate == 90:  # the left column becomes the top row
        x, y = height - 1 - y, x
    elif stage.rotate == 180:
        x, y = width - 1 - x, height - 1 - y
    elif stage.rotate == 270:
        x, y = y, width - 1 - x
    out["x"], out["y"] = x, y
    if stage.polarity != "both":
        out["p"] = 0
    return keep, out
