"""Samples: idx files, CIFAR-10's batches, pictures and arrays of the user's, and what a run kept of its samples."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np

from cil_spl.base.files import write_json
from cil_spl.data import idx, images, preparation, sample_files
from cil_spl.data.augment_images import AugmentImages
from cil_spl.data.preparation import Preparation
from tests.fuzz import damage
from tests.fuzz.kinds import Files, Kind

N = 6
BYTES_OF = Preparation((1, 4, 4), "uint8", (1 / 255,), (0.0,), (1 / 255,), (0.0,))
FRACTIONS = Preparation((3, 4, 4), "float32", (1.0,), (0.0,), (0.5, 0.5, 0.5), (0.1, 0.1, 0.1), outputs=(0, 1))


def _idx(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _labelled(packed: bool) -> Kind:
    suffix = ".gz" if packed else ""

    def make(folder: Path) -> list[Path]:
        files = [folder / f"images{suffix}", folder / f"labels{suffix}"]
        pixels = np.random.default_rng(0).integers(0, 255, (N, 4, 4), np.uint8)
        for file, array in zip(files, (pixels, np.arange(N, dtype=np.uint8)), strict=True):
            file.write_bytes(gzip.compress(_idx(array), mtime=0) if packed else _idx(array))
        return files

    def read(folder: Path) -> Any:
        return idx.read_labelled(folder / f"images{suffix}", folder / f"labels{suffix}")

    return Files(f"idx{suffix}", make, read, damage.ANY, (_idx_header(packed),))


def _idx_header(packed: bool) -> damage.Damage:
    """Other lengths, and few or very many bytes after them."""

    def edit(rng: random.Random, path: Path) -> str:
        lengths = [rng.choice((0, 1, N, 4, 2**16, 2**31, 2**32 - 1)) for _ in range(rng.choice((0, 1, 2, 3, 4, 9)))]
        head = bytes((0, 0, rng.choice((8, 8, 8, 9, 13)), len(lengths))) + struct.pack(f">{len(lengths)}I", *lengths)
        content = head + bytes(rng.choice((0, 6, 96, 10_000_000)))
        path.write_bytes(gzip.compress(content, 1, mtime=0) if packed else content)
        return f"lengths {lengths}, {len(content)} bytes"

    return edit


def _mnist(folder: Path) -> list[Path]:
    made = []
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        for what, array in (("images-idx3", rng.integers(0, 255, (10, 28, 28))), ("labels-idx1", np.arange(10))):
            made.append(folder / f"{part}-{what}-ubyte")
            made[-1].write_bytes(_idx(array.astype(np.uint8)))
    return made


def _cifar(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    files = [folder / name for name in ("data_batch_1.bin", "test_batch.bin")]
    for file in files:
        rows = rng.integers(0, 255, (3, 3073), np.uint8)
        rows[:, 0] = (0, 1, 2)
        file.write_bytes(rows.tobytes())
    return files


def _picture(folder: Path) -> list[Path]:
    from PIL import Image

    Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4)).save(folder / "mine.png")
    return [folder / "mine.png"]


def _picture_of_another_kind(rng: random.Random, path: Path) -> str:
    from PIL import Image

    mode, size = (
        rng.choice(("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "F")),
        rng.choice(((4, 4), (4, 4), (3000, 3000), (1, 1))),
    )
    form = "TIFF" if mode in ("CMYK", "F") else "PNG"
    Image.new(mode, size).save(path, form)
    return f"{form} in mode {mode}, {size}"


def _folder(folder: Path) -> list[Path]:
    """Pictures of both kinds; those of one class in training are damaged."""
    from PIL import Image

    rng = np.random.default_rng(0)
    files = [
        folder / part / name / f"0.{kind}" for part in ("train", "val") for name, kind in (("a", "jpg"), ("b", "png"))
    ]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(file)
    return files[:2]


def _take_from_folder(folder: Path) -> Any:
    train = images.image_folder(root=str(folder), input_shape=(3, 8, 8)).train
    seeds = [(0, i) for i in range(len(train))]
    return train.take(np.arange(len(train)), AugmentImages(crop_area=(0.2, 1)), seeds)


def _samples_of(holder: Preparation, name: str) -> Kind:
    def make(folder: Path) -> list[Path]:
        values = np.random.default_rng(0).random((2, *holder.input_shape))
        np.save(folder / "mine.npy", (values * (200 if holder.whole else 1)).astype(holder.dtype))
        return [folder / "mine.npy"]

    def read(folder: Path) -> Any:
        return holder.samples(sample_files.read_samples(folder / "mine.npy", holder), ["a", "b"]).take([0, 1])

    return Files(name, make, read, damage.ANY, (damage.npy_header, damage.npy_other))


def _kept(folder: Path) -> list[Path]:
    path = folder / preparation.SAMPLES_FILE
    held = [dict(vars(one)) for one in (BYTES_OF, FRACTIONS)]
    write_json(path, {"format": preparation.FORMAT, "experiences": held})
    return [path]


def _use_kept(folder: Path) -> Any:
    """Read them, and take samples by each."""
    found = preparation.read(folder / preparation.SAMPLES_FILE)
    for number, one in enumerate(found):
        one.checked(np.zeros(one.input_shape, one.dtype), "a sample")
        preparation.chosen(found, number)
    return found


def _load(function: Any) -> Any:
    return lambda folder: function(root=str(folder), download=False)


KINDS: list[tuple[Kind, int]] = [
    (_labelled(False), 3),
    (_labelled(True), 3),
    (Files("mnist", _mnist, _load(images.mnist), damage.ANY), 1),
    (Files("cifar10", _cifar, _load(images.cifar10), damage.ANY), 1),
    (Files("png", _picture, lambda folder: sample_files.read_samples(folder / "mine.png", BYTES_OF), damage.ANY,
           (_picture_of_another_kind,)), 2),
    (Files("image_folder", _folder, _take_from_folder, damage.ANY, (_picture_of_another_kind,)), 2),
    (_samples_of(BYTES_OF, "samples of bytes"), 2),
    (_samples_of(FRACTIONS, "samples of fractions"), 2),
    (Files("samples.json", _kept, _use_kept, damage.ANY, damage.JSON, ours=True), 3),
]  # fmt: skip
