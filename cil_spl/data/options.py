"""What the config groups ``frames`` and ``dataset`` may say, apart from what a data set takes for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len, Lt

from cil_spl.base.annotations import Keys, Says
from cil_spl.base.errors import RequestError
from cil_spl.base.options import checked
from cil_spl.data.augment import Augment
from cil_spl.data.preprocess import Preprocess


@dataclass(frozen=True)
class Frames:
    """How events become frames; the config group ``frames``."""

    bins: Annotated[int, Ge(1)] = 4
    by: Literal["time", "count"] = "time"
    duration_us: Annotated[int, Ge(1)] | None = None


def check_bins(bins: int, by: str, duration_us: int | None) -> None:
    """Refuse frames that make no sense.

    Raises:
        RequestError: names the key, its value and what is allowed.
    """
    checked(Frames, {"bins": bins, "by": by, "duration_us": duration_us}, "frames")
    if duration_us is not None and duration_us < bins:
        raise RequestError(f"frames.duration_us={duration_us}: shorter than its {bins} bins of at least 1 us")
    if duration_us is not None and by == "count":
        raise RequestError(f"frames.duration_us={duration_us} goes with frames.by=time only; leave it null")


@dataclass(frozen=True)
class Dataset:
    """The keys that every data set has, and that :func:`cil_spl.data.datasets.load` sees to."""

    name: str
    sensor_size: Annotated[
        Sequence[Annotated[int, Ge(1)]], Len(3, 3), Says("[width, height, polarities], whole numbers from 1")
    ]
    n_classes: Annotated[int, Ge(2)]
    val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1
    split: Literal["train", "test", "all"] = "test"
    exclude_indices: Annotated[
        str | Sequence[int | str] | None,
        Says("null, a list like [train/5, 17], a file with one entry a line, or the word test_dataset"),
    ] = None
    preprocess: Annotated[Mapping[str, Any] | None, Keys(Preprocess)] = field(default_factory=dict)
    augment: Annotated[Mapping[str, Any] | None, Keys(Augment)] = field(default_factory=dict)
