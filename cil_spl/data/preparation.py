"""What was done to a run's samples before its network got them, kept with the run for samples that come later.

A sample of a data set is ``values * scale + shift``; standardising adds the mean and deviation of the training set.
The file ``samples.json`` in a run's folder holds both, of each experience, so that ``predict`` gives the same numbers
to the network as the run did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.errors import RequestError
from cil_spl.base.files import damaged, read_checked, write_json
from cil_spl.data.events import Splits
from cil_spl.data.pictures import MODES, Pictures
from cil_spl.data.samples import Samples, of_channels

SAMPLES_FILE = "samples.json"
FORMAT = 1
_MOST = 1 << 31  # of a size or a number of a pixel


@dataclass(frozen=True)
class Preparation:
    """How values of one experience's data set become what a network gets.

    Attributes:
        input_shape: (channels, height, width).
        dtype: of the data set's values, ``uint8`` for images as a rule.
        unit_scale, unit_shift: ``values * unit_scale + unit_shift`` are from 0 to 1 where whole numbers are scaled.
        scale, shift: ``values * scale + shift`` is what the network gets, standardised where the run's data were.
        order: of the pixels, see :class:`~cil_spl.data.samples.Samples`.
        outputs: the network's outputs that the experience uses; None for all.
        resize: pixels of a picture's shorter side, see :class:`~cil_spl.data.pictures.Pictures`; None where the data
            set was not read from pictures of any size.
    """

    input_shape: tuple[int, ...]
    dtype: str
    unit_scale: tuple[float, ...]
    unit_shift: tuple[float, ...]
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    order: tuple[int, ...] | None = None
    outputs: tuple[int, ...] | None = None
    resize: int | None = None

    @property
    def whole(self) -> bool:
        """Whether the data set's values are whole numbers."""
        return np.dtype(self.dtype).kind in "bui"

    @property
    def scaled(self) -> bool:
        """Whether whole numbers become numbers from 0 to 1."""
        return self.whole and self.unit_scale != (1.0,)

    def checked(self, array: np.ndarray, name: str) -> np.ndarray:
        """Samples of the user's, one after another, if they can be such as the data set has.

        Args:
            array: one sample (C, H, W), with one channel (H, W) too, or several, one after another. Numbers are as the
                data set has them; fractions, where it has scaled whole numbers, are from 0 to 1.
            name: what messages call it.

        Returns:
            the same numbers, ``[N, C, H, W]``.

        Raises:
            RequestError: another shape, another type of numbers, a number that is not finite or outside the range.
        """
        array = np.asarray(array)
        found = self._shaped(array, name)
        self._check_type(found, name)
        self._check_range(found, name)
        return found

    def _shaped(self, array: np.ndarray, name: str) -> np.ndarray:
        shape = self.input_shape
        allowed = [shape, shape[1:]] if shape[0] == 1 else [shape]
        several = any(array.shape[1:] == one for one in allowed) and array.shape not in allowed
        if (several and not len(array)) or (not several and array.shape not in allowed):
            listed = " or ".join(str(list(one)) for one in allowed)
            raise RequestError(
                f"{name}: an array of shape {list(array.shape)}; the run's dataset.input_shape is {list(shape)}: give "
                f"one sample of shape {listed}, or several of them along an axis in front"
            )
        return array.reshape(-1, *shape)  # N C H W

    def _check_type(self, array: np.ndarray, name: str) -> None:
        own = np.dtype(self.dtype)
        kinds = {"b": "b", "u": "ui", "i": "ui", "f": "f"}[own.kind] + ("f" if self.scaled else "")
        if array.dtype.kind not in kinds:
            said = "truth values" if own.kind == "b" else "whole numbers" if self.whole else "fractions (float32)"
            said += ", or fractions from 0 to 1" if self.scaled else ""
            raise RequestError(f"{name}: an array of {array.dtype}; the run's data are {own.name}: give {said}")

    def _check_range(self, values: np.ndarray, name: str) -> None:
        bad = ~np.isfinite(values)
        if bad.any():
            raise RequestError(f"{name}: {_first(values, bad)}, which is no finite number; give finite ones only")
        if not self.whole:
            return
        if values.dtype.kind == "f":
            low, high = 0.0, 1.0
        elif np.dtype(self.dtype).kind == "b":
            return
        else:
            info = np.iinfo(self.dtype)
            low, high = float(info.min), float(info.max)
            if self.scaled:  # a scale of 1/16 says that 16 is full
                low, high = max(low, 0.0), min(high, round(1 / min(map(abs, self.unit_scale))))
        bad = (values < low) | (values > high)
        if bad.any():
            what = "fractions" if values.dtype.kind == "f" else "whole numbers"
            raise RequestError(
                f"{name}: {_first(values, bad)}; for this run {what} are allowed from {low:g} to {high:g}"
            )

    def samples(self, values: np.ndarray, names: Sequence[str]) -> Samples:
        """Checked numbers as the run's own samples were, without targets."""
        if values.dtype.kind == "f" and self.whole:  # from 0 to 1: as the data set would have them
            values = (values.astype(np.float32) - of_channels(self.unit_shift)) / of_channels(self.unit_scale)
        else:
            values = values.astype(self.dtype, copy=False)
        return Samples(
            values=values,
            target=np.zeros(len(values), np.int64),
            name=np.asarray(names, dtype=str),
            origin=np.asarray([""] * len(values), dtype=str),
            classes=None,
            scale=self.scale,
            shift=self.shift,
            order=None if self.order is None else np.array(self.order),
        )


def _first(values: np.ndarray, bad: np.ndarray) -> str:
    at = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return f"sample {at[0]} has {values[at]} at [channel, row, column] {[int(i) for i in at[1:]]}"


def preparation_of(experience: Splits) -> Preparation | None:
    """Of the training samples of an experience; None of recordings."""
    train = experience.train
    if not isinstance(train, Samples):
        return None
    unit_scale, unit_shift = train.unit or (train.scale, train.shift)
    return Preparation(
        input_shape=train.input_shape,
        dtype=train.values.dtype.name,
        unit_scale=unit_scale,
        unit_shift=unit_shift,
        scale=train.scale,
        shift=train.shift,
        order=None if train.order is None else tuple(train.order.tolist()),
        outputs=experience.outputs,
        resize=train.values.resize if isinstance(train.values, Pictures) else None,
    )


def keep(folder: Path, experiences: Sequence[Splits]) -> None:
    """Write ``samples.json``, where the experiences are of samples."""
    found = [one for one in map(preparation_of, experiences) if one is not None]
    if found:
        write_json(folder / SAMPLES_FILE, {"format": FORMAT, "experiences": [asdict(one) for one in found]})


def read(path: Path) -> tuple[Preparation, ...]:
    """What :func:`keep` wrote, for each experience.

    Raises:
        RequestError: the file is damaged, or a newer version wrote it.
    """
    try:
        content, checked = read_checked(path)
        if checked and content["format"] != FORMAT:
            raise RequestError(f"{path}: format {content['format']}; this version reads {FORMAT}")
        found = tuple(_preparation(one) for one in content["experiences"]) if checked else ()
    except RequestError:
        raise
    except (OSError, ValueError, KeyError, TypeError, OverflowError, SyntaxError) as error:
        raise damaged(path) from error
    if not found:
        raise damaged(path)
    return found


def _preparation(held: Mapping[str, Any]) -> Preparation:
    """From JSON, of a folder that may come from someone else."""
    if not isinstance(held, Mapping):
        raise ValueError("an experience without names and values")
    given: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in held.items()}
    one = Preparation(**given)
    shape = one.input_shape
    if not _whole(shape) or len(shape) != 3 or min(shape) < 1 or np.dtype(one.dtype).kind not in "buif":
        raise ValueError("no shape or type of samples")
    for numbers in (one.unit_scale, one.unit_shift, one.scale, one.shift):
        sound = isinstance(numbers, tuple) and all(type(v) in (int, float) and math.isfinite(v) for v in numbers)
        if not sound or len(numbers) not in (1, shape[0]):
            raise ValueError("no scale or shift of its channels")
    if not all(one.unit_scale):
        raise ValueError("a scale of 0")
    pixels = math.prod(shape[1:])
    if one.order is not None:
        known = _whole(one.order) and len(one.order) == pixels
        if not known or sorted(one.order) != list(range(pixels)):
            raise ValueError("no order of its pixels")
    if one.resize is not None and not (
        type(one.resize) is int and max(shape[1:]) <= one.resize < _MOST and shape[0] in MODES
    ):
        raise ValueError("no size of pictures")
    if one.outputs is not None and not (_whole(one.outputs) and all(n >= 0 for n in one.outputs)):
        raise ValueError("no outputs")
    return one


def _whole(values: Any) -> bool:
    return isinstance(values, tuple) and all(type(n) is int and abs(n) < _MOST for n in values)


def chosen(preparations: Sequence[Preparation], experience: int | None) -> Preparation:
    """Of the experience that the user names; where all are alike none has to be named.

    Raises:
        RequestError: there is no such experience, or one has to be named.
    """
    n = len(preparations)
    if experience is None and all(one == preparations[0] for one in preparations):
        return preparations[0]
    if experience is None or not 0 <= experience < n:
        given = "" if experience is None else f" {experience}"
        raise RequestError(
            f"--experience{given}: the run learnt {n} experience{'s' if n > 1 else ''}; say of which the input is, "
            f"allowed are 0 to {n - 1}"
        )
    return preparations[experience]
