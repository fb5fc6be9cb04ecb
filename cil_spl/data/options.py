"""What the config groups ``frames`` and ``dataset`` may say, apart from what a data set takes for itself.

There are two kinds of data: recordings of events, and samples of values (images). A config says which by
``sensor_size`` or ``input_shape``, so that all that depends on it is known before a file is opened.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le, Len, Lt, MinLen

from cil_spl.base.annotations import Keys, Says
from cil_spl.base.errors import RequestError
from cil_spl.base.options import checked
from cil_spl.data.augment import Augment
from cil_spl.data.augment_images import AugmentImages
from cil_spl.data.preprocess import Preprocess


@dataclass(frozen=True)
class Frames:
    """What a network gets at its T time steps; the config group ``frames``."""

    bins: Annotated[int, Ge(1)] = 4
    by: Literal["time", "count"] = "time"
    duration_us: Annotated[int, Ge(1), Le(2**31 - 1)] | None = None  # times have 32 bits
    encode: Literal["events", "repeat", "once"] | None = None


Kind = Literal["events", "values"]  # what data are: events in time, or values that are there at once
ENCODINGS: Mapping[Kind, tuple[str, ...]] = {"events": ("events",), "values": ("repeat", "once")}


def check_bins(bins: int, by: str, duration_us: int | None, encode: str | None = None) -> None:
    """Refuse frames that make no sense.

    Raises:
        RequestError: names the key, its value and what is allowed.
    """
    checked(Frames, {"bins": bins, "by": by, "duration_us": duration_us, "encode": encode}, "frames")
    if duration_us is not None and duration_us < bins:
        raise RequestError(f"frames.duration_us={duration_us}: shorter than its {bins} bins of at least 1 us")
    if duration_us is not None and by == "count":
        raise RequestError(f"frames.duration_us={duration_us} goes with frames.by=time only; leave it null")


def encoding(kind: Kind, encode: str | None, by: str = "time", duration_us: int | None = None) -> str:
    """How data of a kind become frames: ``encode``, or what the kind takes by default.

    Raises:
        RequestError: another kind is encoded so, or values are to be cut in time.
    """
    allowed = ENCODINGS[kind]
    what = "event recordings" if kind == "events" else "samples, which have values and no time"
    if encode is not None and encode not in allowed:
        raise RequestError(
            f"frames.encode={encode}: the data set gives {what}; allowed are {', '.join(allowed)}, or null for "
            f"{allowed[0]}"
        )
    if kind == "values" and by != "time":
        raise RequestError(f"frames.by={by}: the data set gives {what}; leave it at time")
    if kind == "values" and duration_us is not None:
        raise RequestError(f"frames.duration_us={duration_us}: the data set gives {what}; leave it null")
    return encode or allowed[0]


def kind_of(dataset: Mapping[str, Any]) -> Kind:
    """What a config of group ``dataset`` says its data are: with ``input_shape`` they are values, otherwise events."""
    return "values" if "input_shape" in dataset else "events"


Exclude = Annotated[
    str | Sequence[int | str] | None,
    Says("null, a list like [train/5, 17], a file with one entry a line, or the word test_dataset"),
]


@dataclass(frozen=True)
class Dataset:
    """The keys of every data set of recordings, which :func:`cil_spl.data.datasets.load` sees to."""

    name: str
    sensor_size: Annotated[
        Sequence[Annotated[int, Ge(1)]], Len(3, 3), Says("[width, height, polarities], whole numbers from 1")
    ]
    n_classes: Annotated[int, Ge(2)]
    val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1
    split: Literal["train", "test", "all"] = "test"
    exclude_indices: Exclude = None
    preprocess: Annotated[Mapping[str, Any] | None, Keys(Preprocess)] = field(default_factory=dict)
    augment: Annotated[Mapping[str, Any] | None, Keys(Augment)] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleDataset:
    """The keys of every data set of samples, which :func:`cil_spl.data.datasets.load` sees to."""

    name: str
    input_shape: Annotated[
        Sequence[Annotated[int, Ge(1)]], Len(3, 3), Says("[channels, height, width], whole numbers from 1")
    ]
    n_classes: Annotated[int, Ge(2)] | None
    val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1
    split: Literal["train", "test", "all"] = "test"
    exclude_indices: Exclude = None
    n_train: Annotated[int, Ge(1)] | None = None
    n_test: Annotated[int, Ge(1)] | None = None
    standardise: bool = False
    split_classes: (
        Annotated[
            Sequence[Annotated[Sequence[Annotated[int, Ge(0)]], MinLen(1)]],
            MinLen(1),
            Says("lists of class numbers, [[0, 1], [2, 3]], or null"),
        ]
        | None
    ) = None
    outputs: Literal["own", "all"] = "own"
    permutations: Annotated[int, Ge(1), Le(1000)] | None = None
    permutation_seed: Annotated[int, Ge(0)] = 0
    augment: Annotated[Mapping[str, Any] | None, Keys(AugmentImages)] = field(default_factory=dict)


def options_of(dataset: Mapping[str, Any]) -> type[Dataset] | type[SampleDataset]:
    """The keys that a data set of its kind shares with the others."""
    return SampleDataset if kind_of(dataset) == "values" else Dataset
